"""Reads the weights of a checkpoint of VMamba, VM-UNet or nnU-Net (ours), however named, without running its code."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunetv2_dsvm.architecture.checkpoints import from_official_state_dict, to_first_generation_name
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.safe_load import load_safely

# What the image goes through first: the patch embedding, or of our networks also a stem.
FIRST_LAYERS = tuple(
    f"encoder.patch_embedding.{layer}.weight" for layer in ("projection", "steps.0.convolution", "stages.0.0.conv")
)
_FIRST_A_LOG = "encoder.stages.0.blocks.0.ss2d.A_log"
_NORM_OF_A_BLOCK = r"encoder\.stages\.(\d+)\.blocks\.\d+\.norm\.weight"
OURS = "this package's VM-UNet"
VM_UNET = "the official VM-UNet"
FIRST_GENERATION = "VMamba, first generation"
SECOND_GENERATION = "VMamba, second generation"
_RECOGNISED_BY = (
    (OURS, r"encoder\.patch_embedding\..+"),
    (VM_UNET, r"layers_up\.\d+\..+"),
    (FIRST_GENERATION, r"layers\.\d+\.blocks\.\d+\.self_attention\..+"),
    (SECOND_GENERATION, r"layers\.\d+\.blocks\.\d+\.op\..+"),
)
# Where checkpoints keep the weights: nnU-Net's; VMamba's, whose averaged weights ("model_ema") are those it publishes
# the accuracy of and has others start from (its analyze/get_ckpt.py); those of VM-UNet's train.py; common ones.
_ENTRIES = ("network_weights", "model_ema", "model", "model_state_dict", "state_dict")
# Of DDP, torch.compile, VM-UNet's outer class, and of common wrappers around VMamba.
_PREFIXES = ("module.", "_orig_mod.", "vmunet.", "backbone.", "model.")


@dataclass(frozen=True)
class Pretrained:
    """The weights of a checkpoint under our names.

    Attributes:
        file: where they were read from.
        naming: how they were named, one of this module's constants.
        entry: the checkpoint's entry that held them; empty where the file is a plain state dict.
        weights: fp32 on the CPU, by our name.
        names: their names in the file, by our name.
        without_counterpart: the names in the file that are no part of a VM-UNet.
    """

    file: Path
    naming: str
    entry: str
    weights: dict[str, Tensor]
    names: dict[str, str]
    without_counterpart: tuple[str, ...]

    @property
    def first_layer(self) -> str:
        """Our name of the weight that the image meets."""
        return next(name for name in FIRST_LAYERS if name in self.weights)

    @property
    def axes(self) -> int:
        """Of the images that the network is for: 2, or 3 for volumes."""
        return self.weights[self.first_layer].ndim - 2

    @property
    def sizes(self) -> dict[str, Any]:
        """Of the encoder, by the names of VMUNet's arguments."""
        found = ((re.fullmatch(_NORM_OF_A_BLOCK, n), n) for n in self.weights)
        dims_by_stage: dict[int, list[int]] = {}  # one for each of its blocks
        for match, name in found:
            if match:
                dims_by_stage.setdefault(int(match[1]), []).append(len(self.weights[name]))
        blocks = [dims_by_stage[stage] for stage in sorted(dims_by_stage)]
        return {
            "input_channels": self.weights[self.first_layer].shape[1],
            "dims": [of_stage[0] for of_stage in blocks],
            "encoder_depths": [len(of_stage) for of_stage in blocks],
            "d_state": self.weights[_FIRST_A_LOG].shape[-1],
        }

    @property
    def has_decoder(self) -> bool:
        return any(name.startswith("decoder.") for name in self.weights)


def read_pretrained(path: Path) -> Pretrained:
    """Reads a checkpoint; nothing but tensors and plain values is built from it (`weights_only=True`).

    Raises:
        UserError: it is missing, truncated, no checkpoint, asks for code to be run, is of another network, or holds
            values that are not finite.
    """
    entry, state_dict, naming = _find(path, load_safely(path))
    weights, names, without_counterpart = {}, {}, []
    for name, tensor in state_dict.items():
        try:
            ours, value = _convert(stripped(name), tensor, naming)
            finite = bool(value.isfinite().all())
        except KeyError:
            without_counterpart.append(name)
            continue
        except (RuntimeError, IndexError, TypeError, ValueError) as error:  # a tensor of another kind or rank
            what = f"{name} is a {str(tensor.layout).removeprefix('torch.')} {tensor.dtype} tensor {_shape(tensor)}"
            raise UserError(f"{path} is damaged, or of another network: {what} ({error}). Nothing written.") from error
        if not finite:
            raise UserError(f"{path} is damaged: {name} holds NaN or infinite values. Nothing was written.")
        weights[ours], names[ours] = value, name
    first = next((name for name in FIRST_LAYERS if name in weights), FIRST_LAYERS[0])
    if any(".gated_convolution." in name for name in weights):
        raise UserError(
            f"{path} is of a VM-UNet without its scan, and fits no network that has one: trainers without it "
            "(…_noScan) take the file as it is, by nnU-Net's -pretrained_weights. Nothing was written."
        )
    missing = [name for name in (first, _FIRST_A_LOG) if name not in weights]
    if missing:
        raise UserError(
            f"{path} ({naming}) has nothing for {', '.join(missing)}: it is no whole encoder. Nothing was written."
        )
    _refuse_other_ranks(path, weights, names, first)
    return Pretrained(path, naming, entry, weights, names, tuple(without_counterpart))


def _refuse_other_ranks(path: Path, weights: Mapping[str, Tensor], names: Mapping[str, str], first: str) -> None:
    """From the shapes of these tensors the sizes of the network are read."""
    ranks = {first: (4, 5), **dict.fromkeys((n for n in weights if n.endswith("A_log")), (3,))}
    ranks |= dict.fromkeys((n for n in weights if re.fullmatch(_NORM_OF_A_BLOCK, n)), (1,))
    for name, expected in ranks.items():
        if weights[name].ndim not in expected:
            shape = _shape(weights[name])
            raise UserError(
                f"{path} is damaged, or of another network: {names[name]} gives {name} of shape {shape}, expected "
                f"{' or '.join(map(str, expected))} dimensions. Nothing was written."
            )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "of one number"


def _find(path: Path, checkpoint: Any) -> tuple[str, Mapping[str, Tensor], str]:
    """The first entry that holds weights which are recognised, and how they are named."""
    found = []
    for entry, tensors in state_dicts(checkpoint).items():
        found += list(tensors)[:3]
        for naming, pattern in _RECOGNISED_BY:
            if any(re.fullmatch(pattern, stripped(name)) for name in tensors):
                return entry, tensors, naming
    raise UserError(
        f"{path} holds weights of neither VMamba nor VM-UNet: "
        + (f"its first tensors are {', '.join(found)}" if found else "it has no state dict")
        + f". Expected a state dict, or a checkpoint with one under {', '.join(_ENTRIES)}."
    )


def state_dicts(checkpoint: Any) -> dict[str, dict[str, Tensor]]:
    """What of a checkpoint may be weights, by its entry; of a plain state dict by an empty name."""
    candidates: dict[str, Mapping] = {}
    if isinstance(checkpoint, Mapping):
        candidates = dict(_entries(checkpoint)) or {"": checkpoint}
    return {
        entry: {name: v for name, v in values.items() if isinstance(name, str) and isinstance(v, Tensor)}
        for entry, values in candidates.items()
    }


def _entries(checkpoint: Mapping) -> Iterator[tuple[str, Mapping]]:
    """The entries that weights are known to stand in, and those within them."""
    for entry in _ENTRIES:
        if isinstance(checkpoint.get(entry), Mapping):
            yield entry, checkpoint[entry]
            yield from ((f"{entry}.{within}", values) for within, values in _entries(checkpoint[entry]))


def stripped(name: str) -> str:
    """A parameter's name without what wrappers put in front of it."""
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), ""):
        name = name.removeprefix(prefix)
    return name


def _convert(name: str, tensor: Tensor, naming: str) -> tuple[str, Tensor]:
    tensor = tensor.detach().float()
    if naming == OURS:
        if not name.startswith(("encoder.", "decoder.")):
            raise KeyError(name)
        return name, tensor
    if naming == SECOND_GENERATION:
        name = to_first_generation_name(name)
    ((name, tensor),) = from_official_state_dict({name: tensor}).items()
    return name, tensor
