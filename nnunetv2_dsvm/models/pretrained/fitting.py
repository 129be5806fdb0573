"""Fits pretrained weights into a VM-UNet: what goes where, and what finds no place."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from nnunetv2_dsvm.architecture.vm_unet import PRESETS, VMUNet
from nnunetv2_dsvm.architecture.vm_unet_sizes import ADDITIONS
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.models.pretrained.inflate import inflated
from nnunetv2_dsvm.models.pretrained.reading import FIRST_LAYERS, Pretrained

DecoderSource = Literal["auto", "encoder", "fresh"]
HEADS = ".seg_layers."  # nnU-Net's -pretrained_weights skips these names: every training starts with new heads
SMALLEST_SHARE = 0.5


@dataclass(frozen=True)
class Fitted:
    """A network's weights, heads apart, and where they come from.

    Attributes:
        weights: of the whole network, by our name.
        source: of each weight, the name in the file that it was taken from, or None where it is freshly initialised.
        other_shapes: of each weight whose source had another shape and so was left out, `"file's x network's"`.
        inflated: the weights that were made of an image's for volumes.
    """

    weights: dict[str, Tensor]
    source: dict[str, str | None]
    other_shapes: dict[str, str]
    inflated: tuple[str, ...] = ()

    def loaded(self, part: str | tuple[str, ...]) -> tuple[int, int, int, int]:
        """Of weights whose names start with `part`: tensors and parameters from the file, then those in all."""
        of_part = [name for name in self.weights if name.startswith(part)]
        from_file = [name for name in of_part if self.source[name]]
        return len(from_file), self._parameters(from_file), len(of_part), self._parameters(of_part)

    def share(self, part: str | tuple[str, ...]) -> float:
        """The share of a part's parameters that come from the file, 0 … 1."""
        _, loaded, _, total = self.loaded(part)
        return loaded / total

    def _parameters(self, names: Iterable[str]) -> int:
        return sum(self.weights[name].numel() for name in names)


def sizes(network: VMUNet) -> dict[str, Any]:
    """Of a network, by the names of VMUNet's arguments."""
    sizes = network.sizes
    return {
        "input_channels": network.input_channels,
        "dims": list(sizes.dims),
        "encoder_depths": list(sizes.encoder_depths),
        "decoder_depths": list(sizes.decoder_depths),
        "d_state": sizes.d_state,
        **{name: sizes[name] for name in ADDITIONS if name in sizes},
    }


def fit(pretrained: Pretrained, network: VMUNet, decoder: DecoderSource = "auto", inflate: bool = False) -> Fitted:
    """Takes every weight of the network that the file has in the same shape, and leaves the others as they are.

    Blocks are matched by their index, from the first: of deeper stages in the file, the last ones find no place.

    Args:
        pretrained: what was read from the file.
        network: its values are the fresh ones; it is not changed.
        decoder: `"encoder"` starts decoder stage i with the blocks of encoder stage M - 1 - i, as VM-UNet's official
            code does with VMamba's weights; `"fresh"` leaves the decoder as it is; `"auto"` takes the file's decoder,
            or `"encoder"` where it has none. Patch expandings have no counterpart in an encoder.
        inflate: makes weights of images into those of volumes (`inflate.inflated`).

    Raises:
        UserError: the scan in the file has another number of states than the network's, or the network has none; or
            `inflate` is asked for and the file is not of images or the network not of volumes.
    """
    _refuse_without_scan(network)
    _refuse_to_inflate(pretrained, network, inflate)
    _refuse_other_states(pretrained, network)
    own_decoder = decoder == "auto" and pretrained.has_decoder
    stages = len(network.sizes.dims)
    weights: dict[str, Tensor] = {}
    source: dict[str, str | None] = {}
    other_shapes: dict[str, str] = {}
    made_of_images: list[str] = []
    for name, fresh in network.state_dict().items():
        if HEADS in name:
            continue
        weights[name], source[name] = fresh.clone(), None
        wanted = name
        if name.startswith("decoder.") and not own_decoder:
            wanted = "" if decoder == "fresh" else _in_the_encoder(name, stages)
        value = pretrained.weights.get(wanted)
        if value is None:
            continue
        read = value
        if inflate:
            value = inflated(name, value, network.sizes)
        if name in FIRST_LAYERS and value.shape[2:] == fresh.shape[2:]:
            value = to_input_channels(value, fresh.shape[1])
        if value.shape != fresh.shape:
            made = "" if value.shape == read.shape else f", inflated to {_shape(value)},"
            other_shapes[name] = f"{_shape(read)} there{made} and {_shape(fresh)} here"
            continue
        weights[name], source[name] = value.clone(), pretrained.names[wanted]
        if inflate and value.shape != read.shape:
            made_of_images.append(name)
    return Fitted(weights, source, other_shapes, tuple(made_of_images))


def _refuse_without_scan(network: VMUNet) -> None:
    if not network.sizes.scan:
        raise UserError(
            "the network has no scan (scan is false in the plans), and what blocks have learnt around theirs is not "
            "fitted into it: train it from random weights. Nothing was written."
        )


def _refuse_to_inflate(pretrained: Pretrained, network: VMUNet, inflate: bool) -> None:
    if inflate and network.sizes.axes == 2:
        raise UserError(
            "inflate makes weights of images into those of volumes, and this network is one of images: name the plans "
            "of a 3D configuration, as with --plans plans.json -c 3d_fullres"
        )
    if inflate and pretrained.axes == 3:
        raise UserError(f"{pretrained.file} already is of volumes: leave out --inflate")


def to_input_channels(weight: Tensor, channels: int) -> Tensor:
    """A patch embedding for another number of image channels: `(C, m, *patch)` to `(C, channels, *patch)`.

    Every channel gets the sum over the m channels divided by `channels`. So the sum over channels is kept, and an image
    with the same values in all channels is embedded as the file's network embeds it in grey. With m = `channels` the
    weights stay as they are. (Ours; VM-UNet repeats grey images to three channels instead, which is the same for one.)
    """
    if weight.shape[1] == channels:
        return weight
    return weight.sum(dim=1, keepdim=True).expand(-1, channels, *weight.shape[2:]) / channels


def check_enough_fits(pretrained: Pretrained, fitted: Fitted, network: VMUNet, force: bool = False) -> None:
    """Raises UserError where the file fills less than half of the encoder's parameters; with `force`, where none."""
    share = fitted.share("encoder.")
    if share >= SMALLEST_SHARE or (force and share > 0):
        return
    tensors, _, all_tensors, _ = fitted.loaded("encoder.")
    first = "".join(f": {name} is {shapes}" for name, shapes in list(fitted.other_shapes.items())[:1])
    there, here = (
        in_words({k: of[k] for k in ("dims", "encoder_depths", *ADDITIONS) if k in of})
        for of in (pretrained.sizes, sizes(network))
    )
    hints = _presets_as_wide(pretrained) + _of_images(pretrained, network)
    raise UserError(
        f"{pretrained.file} fills only {share:.0%} of the encoder's parameters ({tensors} of {all_tensors} "
        f"tensors){first}. It has {there}, the network {here}. {hints}Choose the size that fits by --preset or "
        "--plans, or --force to write what there is. Nothing was written."
    )


def _of_images(pretrained: Pretrained, network: VMUNet) -> str:
    is_for_volumes = pretrained.axes < network.sizes.axes
    return "--inflate makes weights of images into those of volumes. " if is_for_volumes else ""


def _presets_as_wide(pretrained: Pretrained) -> str:
    dims = pretrained.sizes["dims"]
    names = [name for name, preset in PRESETS.items() if list(preset.dims) == dims]
    return f"Presets of these dims: {', '.join(names)}. " if names else ""


def in_words(sizes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items())


def _refuse_other_states(pretrained: Pretrained, network: VMUNet) -> None:
    there, here = pretrained.sizes["d_state"], sizes(network)["d_state"]
    if there == here:
        return
    has_mlp = any(".mlp." in name for name in pretrained.without_counterpart)
    raise UserError(
        f"{pretrained.file} ({pretrained.naming}) has a scan with d_state {there}, and this network's has d_state "
        f"{here}: with another number of states per channel the scan's weights have other shapes and another meaning, "
        "and none can be made from the other."
        + (" Its blocks also end in an MLP, which VM-UNet's blocks do not have." if has_mlp else "")
        + " VMamba's first generation, such as vssmsmall_dp03_ckpt_epoch_238.pth, has d_state 16, as the presets base "
        "and large. Nothing was written."
    )


def _in_the_encoder(name: str, stages: int) -> str:
    """`"decoder.stages.0.blocks.1.norm.weight"` to `"encoder.stages.3.blocks.1.norm.weight"`; empty for other parts."""
    _, part, index, *rest = name.split(".")
    return ".".join(["encoder", part, str(stages - 1 - int(index)), *rest]) if part == "stages" else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
