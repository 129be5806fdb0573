"""What a network states about its stages, so that others need know nothing else of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StageInfo:
    """One stage of an encoder or decoder, whose last feature map can be distilled.

    Attributes:
        module: the submodule that makes it, by the name that `get_submodule` takes.
        channels: of the feature map.
        stride: how many pixels of the image a pixel of the feature map stands for, along each axis.
    """

    module: str
    channels: int
    stride: tuple[int, ...]


class StatesStages(Protocol):
    """A network that states its stages; both sides with the highest resolution first."""

    @property
    def encoder_stages(self) -> Sequence[StageInfo]: ...

    @property
    def decoder_stages(self) -> Sequence[StageInfo]: ...


def channels_of(stages: Sequence[StageInfo]) -> list[int]:
    """The channels of each stage, in the same order."""
    return [stage.channels for stage in stages]
