"""What a network states about its stages, so that others need know nothing else of it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Axes = Sequence[int]  # one number an axis


@dataclass(frozen=True)
class StageInfo:
    """One stage of an encoder or decoder, whose last feature map can be distilled.

    Attributes:
        module: the submodule that makes it, by the name that `get_submodule` takes; "name[i]" for an element of a list
            that it returns.
        channels: of the feature map.
        stride: how many pixels of the image a pixel of the feature map stands for, along each axis.
    """

    module: str
    channels: int
    stride: tuple[int, ...]


class FeaturesOutput(NamedTuple):
    """What a network returns in training where its features are distilled: logits with its stages' feature maps.

    Attributes:
        logits: whatever the network returns otherwise; a list with deep supervision.
        encoder_features: (B, C_l, *spatial) of the encoder's stages, highest resolution first.
        decoder_features: the same of the decoder's.
    """

    logits: Any
    encoder_features: tuple[Tensor, ...]
    decoder_features: tuple[Tensor, ...]


class StatesStages(Protocol):
    """A network that states its stages; both sides with the highest resolution first."""

    @property
    def encoder_stages(self) -> Sequence[StageInfo]: ...

    @property
    def decoder_stages(self) -> Sequence[StageInfo]: ...


def total_strides(strides: Sequence[Axes]) -> tuple[tuple[int, ...], ...]:
    """How many pixels of the image one of each stage stands for along each axis, by the strides from stage to stage."""
    each = itertools.accumulate(strides, lambda total, stride: [a * b for a, b in zip(total, stride, strict=True)])
    return tuple(map(tuple, each))


def channels_of(stages: Sequence[StageInfo]) -> list[int]:
    """The channels of each stage, in the same order."""
    return [stage.channels for stage in stages]


def doubling_stages(modules: Sequence[str], channels: Sequence[int], first_stride: int) -> tuple[StageInfo, ...]:
    """Stages of images, each at half the resolution of the one before, highest resolution first."""
    stages = enumerate(zip(modules, channels, strict=True))
    return tuple(StageInfo(module, c, (first_stride * 2**i,) * 2) for i, (module, c) in stages)
