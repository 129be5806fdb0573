"""The stages of any network by the names of its modules: what one dry run tells of them, and nnU-Net's own U-Nets'."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from nnunetv2_dsvm.architecture.stage_info import StageInfo
from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.files.text import by


def named_output(name: str) -> tuple[str, int | None]:
    """The module's name and, of "name[i]", which element of the list that the module returns."""
    match = re.fullmatch(r"(.+)\[(-?\d+)\]", name)
    return (name, None) if match is None else (match[1], int(match[2]))


def check_modules(network: nn.Module, names: Sequence[str]) -> None:
    """Raises UserValueError that lists the names without a module, with those that are there and look alike."""
    known = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    missing = [path for path, _ in map(named_output, names) if path not in known]
    if not missing:
        return
    hints = []
    for path in dict.fromkeys(missing):
        alike = get_close_matches(path, known, n=3, cutoff=0.5)
        hints.append(repr(path) + (f" (alike: {', '.join(alike)})" if alike else ""))
    top = ", ".join(name for name, _ in network.named_children())
    raise UserValueError(
        f"{type(network).__name__} has no module {', '.join(hints)}: take names of named_modules(); the first level "
        f"is {top}"
    )


def describe_stages(
    network: nn.Module, encoder: Sequence[str], decoder: Sequence[str], image: Tensor
) -> tuple[tuple[StageInfo, ...], tuple[StageInfo, ...]]:
    """What one dry run of the network tells of the modules that are to be its stages.

    The network runs once as at inference: in evaluation mode (but for dropout in place), without gradients, uncompiled,
    on its own device and in its own type. Its modes, buffers, gradients and torch's random numbers stay as they were.

    Args:
        network: any module, also one that torch.compile or DDP has wrapped.
        encoder: names of modules as `FeatureTaps` takes them, highest resolution first.
        decoder: the same of the decoder.
        image: (1, channels, *spatial) of the size that is trained on; its values do not matter.

    Returns:
        The stages of the encoder and of the decoder. A stride is the image's size by the feature map's along each
        axis, rounded where it does not divide.

    Raises:
        UserValueError: names a module that is missing, named twice, does not run or runs more than once, returns no
            feature map (B, C, *spatial), is out of order, or whose output is changed in place later.
    """
    network = unwrap_model(network)
    names = [*encoder, *decoder]
    check_modules(network, names)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserValueError(f"{', '.join(twice)} named twice: each stage counts once")
    outputs = _outputs(network, names, image)
    stages = {name: _stage(name, outputs[name], image) for name in names}
    for side in (encoder, decoder):
        _check_order({name: tuple(outputs[name][0][0].shape[2:]) for name in side})
    return tuple(stages[name] for name in encoder), tuple(stages[name] for name in decoder)


def unet_stages(network: nn.Module, from_stride: int = 4) -> tuple[list[str], list[str]]:
    """The stages of nnU-Net's own U-Nets: PlainConvUNet, ResidualEncoderUNet, ResidualUNet, and what is built alike.

    The distillation costs as much memory as its finest feature maps: by default the stages from a stride of 4 along any
    axis are taken, as the method's finest stage lies there. A network that has too few of these starts finer, so that
    both sides have two stages, if there are as many.

    Args:
        network: has `encoder.stages`, `encoder.strides`, and `decoder.stages`, one fewer and deepest first.
        from_stride: the finest stage has it, 1: all of them.

    Returns:
        The names of the encoder's and of the decoder's modules, highest resolution first, as `FeatureTaps` takes them.

    Raises:
        UserValueError: another network.
    """
    network = unwrap_model(network)
    encoder, decoder = getattr(network, "encoder", None), getattr(network, "decoder", None)
    steps, stages = getattr(encoder, "strides", None), getattr(encoder, "stages", ())
    if not steps or len(steps) != len(stages) or len(getattr(decoder, "stages", ())) != len(stages) - 1:
        raise UserValueError(
            f"{type(network).__name__} is not built like nnU-Net's U-Nets (encoder.stages, encoder.strides, "
            "decoder.stages): name the modules that are its encoder's and its decoder's stages"
        )
    strides = torch.tensor([[step] if isinstance(step, int) else list(step) for step in steps]).cumprod(0).amax(1)
    deepest = len(stages) - 1
    first = min(int((strides < from_stride).sum()), max(0, deepest - 2))
    # Decoder stage j gives the resolution of encoder stage deepest - 1 - j.
    return (
        [f"encoder.stages.{level}" for level in range(first, deepest + 1)],
        [f"decoder.stages.{deepest - 1 - level}" for level in range(first, deepest)],
    )


@contextmanager
def _as_at_inference(network: nn.Module, device: torch.device) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    for module in network.modules():
        if isinstance(module, _DropoutNd) and module.inplace and module.p > 0:
            module.train()  # what it changes in place shows in training only
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _outputs(network: nn.Module, names: Sequence[str], image: Tensor) -> dict[str, list[tuple[Any, int]]]:
    """By name what its module returned, once a call, each with how often it had been changed in place by then."""
    outputs: dict[str, list[tuple[Any, int]]] = {name: [] for name in names}

    def keep(name: str, index: int | None, module: nn.Module, args: Any, output: Any) -> None:
        if index is not None:
            output = _element(name, output, index)
        outputs[name].append((output, getattr(output, "_version", 0)))

    handles = []
    parameter = next((p for p in network.parameters() if p.is_floating_point()), image)
    try:
        for name in names:
            path, index = named_output(name)
            handles.append(network.get_submodule(path).register_forward_hook(partial(keep, name, index)))
        with _as_at_inference(network, parameter.device):
            network(image.to(parameter.device, parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _element(name: str, output: Any, index: int) -> Any:
    path = named_output(name)[0]
    if not isinstance(output, list | tuple):
        raise UserValueError(f"module {path!r} returns {_in_words(output)}, no list: name it without [{index}]")
    if not -len(output) <= index < len(output):
        raise UserValueError(f"{name!r} is not there: the module returns {len(output)} outputs, counted from 0")
    return output[index]


def _stage(name: str, calls: Sequence[tuple[Any, int]], image: Tensor) -> StageInfo:
    path = named_output(name)[0]
    if len(calls) != 1:
        how_often = f"runs {len(calls)} times" if calls else "does not run"
        raise UserValueError(f"module {path!r} {how_often} when the network does: name a module that runs once")
    output, version = calls[0]
    if isinstance(output, list | tuple) and output:
        raise UserValueError(
            f"module {path!r} returns {len(output)} outputs: name one, '{path}[0]' to '{path}[{len(output) - 1}]'"
        )
    is_map = isinstance(output, Tensor) and output.ndim == image.ndim and output.shape[0] == image.shape[0]
    if not is_map or not output.is_floating_point() or not output.numel():
        raise UserValueError(
            f"module {path!r} returns {_in_words(output)}, no feature map (B, C, {', '.join('HWD'[: image.ndim - 2])}) "
            f"of an image {tuple(image.shape)}"
        )
    if output._version != version:
        raise UserValueError(
            f"what module {path!r} returns is changed in place later (by an activation or dropout with inplace=True?): "
            "name the module that changes it"
        )
    stride = (max(1, round(n / m)) for n, m in zip(image.shape[2:], output.shape[2:], strict=True))
    return StageInfo(name, output.shape[1], tuple(stride))


def _check_order(sizes: dict[str, tuple[int, ...]]) -> None:
    for (finer, size), (coarser, next_size) in pairwise(sizes.items()):
        if any(n < m for n, m in zip(size, next_size, strict=True)):
            raise UserValueError(
                f"{finer!r} of {by(size)} comes before {coarser!r} of {by(next_size)}: name the stages highest "
                "resolution first (and channels come second in a feature map)"
            )


def _in_words(output: Any) -> str:
    return f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
