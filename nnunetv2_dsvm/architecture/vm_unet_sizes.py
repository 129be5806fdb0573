"""The sizes of a VM-UNet, with what follows from them, and those that have a name."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from nnunetv2_dsvm.architecture.blocks.resampling import PATCH_SIZE


@dataclass(frozen=True)
class VMUNetSizes(Mapping[str, Any]):
    """What a VM-UNet is built from, besides channels and classes.

    As a mapping it has the keywords of `VMUNet` that plans hold: dims and depths always, the others where they are not
    the defaults. So `VMUNet(1, 2, **sizes)`.

    Args:
        dims: channels of each stage, each twice the one before and the first divisible by 4.
        encoder_depths: VSS blocks of each encoder stage, H/4 first.
        decoder_depths: VSS blocks of each decoder stage, deepest first.
        d_state: states per channel of the scan, N.
        drop_path_rate: largest stochastic-depth probability; it grows with depth.

    Raises:
        ValueError: sizes that do not fit together.
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    encoder_depths: tuple[int, ...] = (2, 2, 2, 2)
    decoder_depths: tuple[int, ...] = (2, 2, 2, 1)
    d_state: int = 16
    drop_path_rate: float = 0.2

    def __post_init__(self) -> None:
        for name in _PER_STAGE:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.dims) == len(self.encoder_depths) == len(self.decoder_depths) >= 1:
            raise ValueError(
                f"dims {self.dims}, encoder_depths {self.encoder_depths} and decoder_depths {self.decoder_depths} "
                f"must have one entry per stage"
            )
        if any(larger != 2 * smaller for smaller, larger in itertools.pairwise(self.dims)) or self.dims[0] % PATCH_SIZE:
            raise ValueError(f"dims {self.dims} must double from stage to stage and start with a multiple of 4")
        if min(*self.encoder_depths, *self.decoder_depths) < 1:
            raise ValueError(f"every stage needs a block, got depths {self.encoder_depths} and {self.decoder_depths}")
        if self.d_state < 1 or not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(
                f"d_state must be ≥ 1 and drop_path_rate in [0, 1), got {self.d_state} and {self.drop_path_rate}"
            )

    def __getitem__(self, name: str) -> Any:
        if name not in iter(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (f.name for f in fields(self) if f.name in _PER_STAGE or getattr(self, f.name) != f.default)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Pixels of the image that a pixel of each stage stands for along an axis, H/4 first."""
        return tuple(PATCH_SIZE * 2**stage for stage in range(len(self.dims)))


def strides_of(num_stages: int) -> list[list[int]]:
    """How much smaller each resolution is than the one before, per axis, in the form of nnU-Net's plans."""
    return [[1, 1], [PATCH_SIZE, PATCH_SIZE], *([2, 2] for _ in range(num_stages - 1))]


_PER_STAGE = ("dims", "encoder_depths", "decoder_depths")

# "base" is the published recipe (27,427,561 parameters with 3 channels in and 1 class), "large" the official class's
# defaults (44,273,833); "small" is ours, for CPUs. "wide", "deep" and "huge" are ours, for GPUs with 24, 40 and 80 GB;
# VMamba's tiny and base encoders (arXiv 2401.10166) have the depths and channels of "large" and "deep".
PRESETS: dict[str, VMUNetSizes] = {
    "small": VMUNetSizes((16, 32, 64, 128), (1, 1, 1, 1), (1, 1, 1, 1), d_state=8, drop_path_rate=0.0),
    "base": VMUNetSizes((96, 192, 384, 768), (2, 2, 2, 2), (2, 2, 2, 1)),
    "large": VMUNetSizes((96, 192, 384, 768), (2, 2, 9, 2), (2, 9, 2, 2)),
    "wide": VMUNetSizes((128, 256, 512, 1024), (2, 2, 9, 2), (2, 9, 2, 2)),
    "deep": VMUNetSizes((128, 256, 512, 1024), (2, 2, 27, 2), (2, 27, 2, 2)),
    "huge": VMUNetSizes((192, 384, 768, 1536), (2, 2, 9, 2), (2, 9, 2, 2)),
}
