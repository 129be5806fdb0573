"""The names of U-Mamba (arXiv 2401.04722): of today's code, and of January 2024's, which the paper used."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from nnunetv2_dsvm.architecture.official_names.mamba import MAMBA, MambaNames
from nnunetv2_dsvm.architecture.official_names.name_map import Rule, within

_PLAIN: list[Rule] = [("conv1.*", "conv1.*"), ("conv2.*", "conv2.*")]
_CHANGING: list[Rule] = [
    ("conv1.*", "conv1.conv.*"),
    ("norm1.*", "conv1.norm.*"),
    ("conv2.*", "conv2.conv.*"),
    ("norm2.*", "conv2.norm.*"),
    ("conv3.*", "shortcut.*"),
]
_MAMBA_LAYER: list[Rule] = [("norm.*", "norm.*"), *within("mamba.", "mamba.", MAMBA)]
_ENC_AND_HEADS: list[Rule] = [
    *within("encoder.mamba_layers.#.", "encoder.mamba_layers.#.", _MAMBA_LAYER),
    ("decoder.seg_layers.#.*", "decoder.seg_layers.#.*"),
]
_STAGES = ("encoder.stem.", "encoder.stages.#.", "decoder.stages.#.")
_TODAY: list[Rule] = [
    *(rule for stage in _STAGES for rule in within(f"{stage}0.", f"{stage}0.", _CHANGING)),
    *(rule for stage in _STAGES for rule in within(f"{stage}#.", f"{stage}#.", _PLAIN)),
    *within("mamba_layer.", "encoder.bottleneck.", _MAMBA_LAYER),
    ("decoder.upsample_layers.#.conv.*", "decoder.upsamplings.#.0.*"),
    *_ENC_AND_HEADS,
]
_JANUARY: list[Rule] = [
    ("encoder.stem.convs.0.*", "encoder.stem.0.*"),
    *(
        rule
        for stage in _STAGES[1:]
        for rule in within(f"{stage}blocks.#.", f"{stage}#.", [*_PLAIN, ("skip.*", "shortcut.*")])
    ),
    ("ln.*", "encoder.bottleneck.norm.*"),
    *within("mamba.", "encoder.bottleneck.mamba.", MAMBA),
    ("decoder.transpconvs.#.*", "decoder.upsamplings.#.*"),
    *_ENC_AND_HEADS,
]
_SECOND_NAMES = ["decoder.encoder.*", "*.all_modules.*"]  # of tensors that the state dict holds under two to four


class _UMambaNames(MambaNames):
    """Of whole state dicts the heads are turned round: official ones begin with the deepest, ours with the largest."""

    def from_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _heads_turned(super().from_official(state_dict))

    def to_official_state(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().to_official_state(_heads_turned(state_dict))


class _EitherCode(_UMambaNames):
    """Reads either code's names, of which none means two things; writes those of the code that the weights are of."""

    def to_official_state(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "encoder.stem.0.conv.weight" in state_dict:
            return U_MAMBA_JANUARY.to_official_state(state_dict)
        return super().to_official_state(state_dict)


U_MAMBA_JANUARY = _UMambaNames("U-Mamba of January 2024", _JANUARY, _SECOND_NAMES)
U_MAMBA = _EitherCode("U-Mamba", [*_TODAY, *_JANUARY], _SECOND_NAMES)


def _heads_turned(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    heads = _count(state_dict)
    return {_HEAD.sub(lambda match: str(heads - 1 - int(match[0])), name): t for name, t in state_dict.items()}


_HEAD = re.compile(r"(?<=^decoder\.seg_layers\.)\d+")


def _count(names: Iterable[str]) -> int:
    return len({match[0] for name in names if (match := _HEAD.search(name))})
