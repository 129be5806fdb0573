"""Pure functions between the parameter names of the official VM-UNet (arXiv 2402.02491) and ours.

VM-UNet's encoder has the names of VMamba's first generation (arXiv 2401.10166); the second generation's are brought to
these first.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

# Official name -> ours, whole keys. The official code numbers the decoder's stages from the deepest, as we do; its
# patch expanding sits in the stage that follows it.
_TO_OURS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"patch_embed\.proj\.(\w+)", r"encoder.patch_embedding.projection.\1"),
    (r"patch_embed\.norm\.(\w+)", r"encoder.patch_embedding.norm.\1"),
    (r"layers\.(\d+)\.blocks\.(.+)", r"encoder.stages.\1.blocks.\2"),
    (r"layers\.(\d+)\.downsample\.(.+)", r"encoder.mergings.\1.\2"),
    (r"layers_up\.(\d+)\.blocks\.(.+)", r"decoder.stages.\1.blocks.\2"),
    (r"layers_up\.(\d+)\.upsample\.(.+)", lambda m: f"decoder.expandings.{int(m[1]) - 1}.{m[2]}"),
    (r"final_up\.(.+)", r"decoder.final_expanding.\1"),
    (r"final_conv\.(\w+)", r"decoder.seg_layers.0.\1"),
)
_TO_OFFICIAL: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"encoder\.patch_embedding\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.patch_embedding\.norm\.(\w+)", r"patch_embed.norm.\1"),
    (r"encoder\.stages\.(\d+)\.blocks\.(.+)", r"layers.\1.blocks.\2"),
    (r"encoder\.mergings\.(\d+)\.(.+)", r"layers.\1.downsample.\2"),
    (r"decoder\.stages\.(\d+)\.blocks\.(.+)", r"layers_up.\1.blocks.\2"),
    (r"decoder\.expandings\.(\d+)\.(.+)", lambda m: f"layers_up.{int(m[1]) + 1}.upsample.{m[2]}"),
    (r"decoder\.final_expanding\.(.+)", r"final_up.\1"),
    (r"decoder\.seg_layers\.0\.(\w+)", r"final_conv.\1"),
)
# Inside a block: (official, ours).
_BLOCK_PARTS = (
    ("ln_1.", "norm."),
    ("self_attention.x_proj_weight", "ss2d.x_proj"),
    ("self_attention.dt_projs_weight", "ss2d.dt_proj"),
    ("self_attention.dt_projs_bias", "ss2d.dt_bias"),
    ("self_attention.A_logs", "ss2d.A_log"),
    ("self_attention.Ds", "ss2d.D"),
    ("self_attention.conv2d.", "ss2d.conv."),
    ("self_attention.", "ss2d."),
)
# VMamba's second generation -> its first; its other layers of these names (a patch embedding of two convolutions, one
# that merges patches, an MLP in each block) have no counterpart and keep their names.
_TO_FIRST_GENERATION = (
    (r"patch_embed\.0\.(\w+)", r"patch_embed.proj.\1"),
    (r"patch_embed\.2\.(\w+)", r"patch_embed.norm.\1"),
    (r"(layers\.\d+\.blocks\.\d+)\.norm\.(\w+)", r"\1.ln_1.\2"),
    (r"(layers\.\d+\.blocks\.\d+)\.op\.(.+)", r"\1.self_attention.\2"),
)
_PREFIX = "vmunet."
_NUM_DIRECTIONS = 4


def to_our_name(official: str) -> str:
    """`"vmunet.layers.0.blocks.0.ln_1.weight"` (prefix optional) to `"encoder.stages.0.blocks.0.norm.weight"`.

    Raises:
        KeyError: not a parameter of the official VM-UNet.
    """
    name = _translate(official.removeprefix(_PREFIX), _TO_OURS)
    return _translate_block(name, _BLOCK_PARTS)


def to_first_generation_name(second: str) -> str:
    """`"layers.0.blocks.0.op.A_logs"` of VMamba's second generation to `"layers.0.blocks.0.self_attention.A_logs"`.

    Names that the first generation does not have come back as they are.
    """
    for pattern, replacement in _TO_FIRST_GENERATION:
        match = re.fullmatch(pattern, second)
        if match:
            return match.expand(replacement)
    return second


def to_official_name(ours: str, prefix: str = _PREFIX) -> str:
    """The inverse of `to_our_name`; `prefix` is what the official class puts before every key.

    Raises:
        KeyError: not a parameter that the official VM-UNet has, such as an auxiliary head.
    """
    name = _translate(ours, _TO_OFFICIAL)
    return prefix + _translate_block(name, tuple((our, official) for official, our in _BLOCK_PARTS))


def from_official_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official keys to ours; A_log `(K d_inner, N)` becomes `(K, d_inner, N)` and D `(K d_inner)` `(K, d_inner)`."""
    converted = {to_our_name(name): tensor for name, tensor in state_dict.items()}
    return {
        name: tensor.unflatten(0, (_NUM_DIRECTIONS, -1)) if name.endswith(("ss2d.A_log", "ss2d.D")) else tensor
        for name, tensor in converted.items()
    }


def to_official_state_dict(state_dict: Mapping[str, Tensor], prefix: str = _PREFIX) -> dict[str, Tensor]:
    """The inverse of `from_official_state_dict`."""
    return {
        to_official_name(name, prefix): tensor.flatten(0, 1) if name.endswith(("ss2d.A_log", "ss2d.D")) else tensor
        for name, tensor in state_dict.items()
    }


def _translate(name: str, rules: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]) -> str:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return replacement(match) if callable(replacement) else match.expand(replacement)
    raise KeyError(f"{name!r} has no counterpart: it is not a parameter of VM-UNet")


def _translate_block(name: str, parts: tuple[tuple[str, str], ...]) -> str:
    stem, separator, rest = name.partition(".blocks.")
    if not separator:
        return name
    index, _, inside = rest.partition(".")
    for source, target in parts:
        if inside.startswith(source):
            return f"{stem}.blocks.{index}.{target}{inside.removeprefix(source)}"
    raise KeyError(f"{name!r} has no counterpart: it is not a parameter of VM-UNet")
