"""Between the official LightM-UNet's parameter names (MrBlankness/LightM-UNet) and ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from nnunetv2_dsvm.architecture.official_names.name_table import MAMBA, OF_EACH_DIRECTION, NameTable, Pair, inside

_RESIDUAL_MAMBA: tuple[Pair, ...] = (
    ("skip_scale", "skip_scale"),
    ("norm.{part}", "norm.{part}"),
    ("proj.{part}", "proj.{part}"),
    *inside("mamba.", "mamba.", MAMBA),
)
# Official stages count their blocks from 1: the transition, or nothing, is their part 0.
_TABLE = NameTable(
    "LightM-UNet",
    (
        ("convInit.{j}.conv.weight", "encoder.stem.{j}.weight"),
        *inside("down_layers.{i}.0.0.", "encoder.transitions.{i}.mamba.", _RESIDUAL_MAMBA),
        *inside("down_layers.{i}.{j}.conv1.", "encoder.stages.{i}.{j}.mamba1.", _RESIDUAL_MAMBA),
        *inside("down_layers.{i}.{j}.conv2.", "encoder.stages.{i}.{j}.mamba2.", _RESIDUAL_MAMBA),
        ("down_layers.{i}.{j}.{norm}.{part}", "encoder.stages.{i}.{j}.{norm}.{part}"),
        ("up_samples.{i}.0.conv.weight", "decoder.upsamplings.{i}.weight"),
        ("up_layers.{i}.{j}.conv.{k}.conv.weight", "decoder.stages.{i}.{j}.conv.{k}.weight"),
        ("up_layers.{i}.{j}.skip_scale", "decoder.stages.{i}.{j}.skip_scale"),
        ("up_layers.{i}.{j}.{norm}.{part}", "decoder.stages.{i}.{j}.{norm}.{part}"),
        ("conv_final.0.{part}", "decoder.seg_layers.0.0.{part}"),
        ("conv_final.2.{k}.conv.{part}", "decoder.seg_layers.0.2.{k}.{part}"),
    ),
)
_BLOCK = re.compile(r"(?<=^encoder\.stages\.)(\d+)\.(\d+)")
_TRANSITION = re.compile(r"(?<=^encoder\.transitions\.)(\d+)")


def from_official_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official weights, of the code of 29 March 2024 or later, under our names.

    Raises:
        KeyError: a name that it has not, such as those of the residual blocks in the decoder before.
    """
    ours = {_renumbered(_TABLE.to_ours(name), -1): tensor for name, tensor in state_dict.items()}
    return {name: t[None] if name.endswith(OF_EACH_DIRECTION) else t for name, t in ours.items()}


def to_official_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_official_state_dict`.

    Raises:
        KeyError: an auxiliary head, which the official network has not.
    """
    return {
        _TABLE.to_official(_renumbered(name, 1)): t[0] if name.endswith(OF_EACH_DIRECTION) else t
        for name, t in state_dict.items()
    }


def _renumbered(name: str, shift: int) -> str:
    """Ours count blocks, and transitions, from 0; official ones from 1."""
    name = _BLOCK.sub(lambda match: f"{match[1]}.{int(match[2]) + shift}", name)
    return _TRANSITION.sub(lambda match: str(int(match[1]) + shift), name)
