"""Between the official U-Mamba's parameter names (bowang-lab/U-Mamba) and ours: today's code, and January's."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from nnunetv2_dsvm.architecture.official_names.name_table import MAMBA, OF_EACH_DIRECTION, NameTable, Pair, inside

_NETWORK = "U-Mamba"
_SIDES = ("encoder", "decoder")
_PLAIN: tuple[Pair, ...] = (
    ("conv1.{layer}.{part}", "conv1.{layer}.{part}"),
    ("conv2.{layer}.{part}", "conv2.{layer}.{part}"),
)
_CHANGING: tuple[Pair, ...] = (
    ("conv1.{part}", "conv1.conv.{part}"),
    ("norm1.{part}", "conv1.norm.{part}"),
    ("conv2.{part}", "conv2.conv.{part}"),
    ("norm2.{part}", "conv2.norm.{part}"),
    ("conv3.{part}", "shortcut.{part}"),
)
_MAMBA_LAYER: tuple[Pair, ...] = (("norm.{part}", "norm.{part}"), *inside("mamba.", "mamba.", MAMBA))
_ENC_AND_HEADS: tuple[Pair, ...] = (
    *inside("encoder.mamba_layers.{i}.", "encoder.mamba_layers.{i}.", _MAMBA_LAYER),
    ("decoder.seg_layers.{i}.{part}", "decoder.seg_layers.{i}.{part}"),
)


def _stages(of_a_side: str) -> Iterable[Pair]:
    stage = f"{of_a_side}.stages.{{i}}."
    yield from inside(f"{stage}0.", f"{stage}0.", _CHANGING)
    yield from inside(f"{stage}{{j}}.", f"{stage}{{j}}.", _PLAIN)


_TODAY = NameTable(
    _NETWORK,
    (
        *inside("encoder.stem.0.", "encoder.stem.0.", _CHANGING),
        *inside("encoder.stem.{j}.", "encoder.stem.{j}.", _PLAIN),
        *(pair for side in _SIDES for pair in _stages(side)),
        *inside("mamba_layer.", "encoder.bottleneck.", _MAMBA_LAYER),
        ("decoder.upsample_layers.{i}.conv.{part}", "decoder.upsamplings.{i}.0.{part}"),
        *_ENC_AND_HEADS,
    ),
)
_JANUARY_BLOCK: tuple[Pair, ...] = (*_PLAIN, ("skip.{k}.{layer}.{part}", "shortcut.{k}.{layer}.{part}"))
_JANUARY = NameTable(
    f"{_NETWORK} of January 2024",
    (
        ("encoder.stem.convs.0.{layer}.{part}", "encoder.stem.0.{layer}.{part}"),
        *(
            pair
            for side in _SIDES
            for pair in inside(f"{side}.stages.{{i}}.blocks.{{j}}.", f"{side}.stages.{{i}}.{{j}}.", _JANUARY_BLOCK)
        ),
        ("ln.{part}", "encoder.bottleneck.norm.{part}"),
        *inside("mamba.", "encoder.bottleneck.mamba.", MAMBA),
        ("decoder.transpconvs.{i}.{part}", "decoder.upsamplings.{i}.{part}"),
        *_ENC_AND_HEADS,
    ),
)


def stored_once(official: Iterable[str]) -> list[str]:
    """The official names without those that name a parameter a second time.

    The official decoder registers the encoder again, and a convolution its layers.
    """
    return [name for name in official if not name.startswith("decoder.encoder.") and ".all_modules." not in name]


def from_official_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official weights under our names, each once; of today's code or of January's, as their names tell.

    Raises:
        KeyError: a name that neither has.
    """
    table = _JANUARY if any(name.startswith("encoder.stem.convs.") for name in state_dict) else _TODAY
    heads = _number_of_heads(state_dict)
    ours = {_heads_turned(table.to_ours(name), heads): state_dict[name] for name in stored_once(state_dict)}
    return {name: t[None] if name.endswith(OF_EACH_DIRECTION) else t for name, t in ours.items()}


def to_official_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_official_state_dict`, without the second names."""
    table = _JANUARY if "encoder.stem.0.conv.weight" in state_dict else _TODAY
    heads = _number_of_heads(state_dict)
    return {
        table.to_official(_heads_turned(name, heads)): t[0] if name.endswith(OF_EACH_DIRECTION) else t
        for name, t in state_dict.items()
    }


def _number_of_heads(names: Iterable[str]) -> int:
    return sum(re.fullmatch(r"decoder\.seg_layers\.\d+\.weight", name) is not None for name in names)


def _heads_turned(name: str, heads: int) -> str:
    """Official heads begin with the deepest, ours with the largest output."""
    return re.sub(r"(?<=^decoder\.seg_layers\.)\d+", lambda match: str(heads - 1 - int(match[0])), name)
