"""The sizes of a VM-UNet, with what follows from them, and those that have a name."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from numbers import Integral
from operator import mul
from typing import Any, Literal, get_args

from nnunetv2_dsvm.architecture.blocks.resampling import PATCH_SIZE

Stem = Literal["patches", "convolutions"]


@dataclass(frozen=True)
class VMUNetSizes(Mapping[str, Any]):
    """What a VM-UNet is built from, besides channels and classes.

    As a mapping it has the keywords of `VMUNet` that plans hold: dims and depths always, the others where they are not
    the defaults, which are those of images. So `VMUNet(1, 2, **sizes)`.

    Args:
        dims: channels of each stage, each twice the one before and the first divisible by 4.
        encoder_depths: VSS blocks of each encoder stage, finest first.
        decoder_depths: VSS blocks of each decoder stage, deepest first.
        d_state: states per channel of the scan, N.
        drop_path_rate: largest stochastic-depth probability; it grows with depth.
        strides: how much smaller each resolution is than the one before, per axis, in the form of nnU-Net's plans: the
            image's own ones, the patch embedding's, and each merging's; as many numbers a step as the network has
            dimensions, 2 or 3. Empty: `strides_of(len(dims))`, the published ones.
        stem: what makes the first tokens of the image: `"patches"`, the published one strided projection, or
            `"convolutions"`, one with a kernel of 3 for each halving (`blocks.stem.ConvolutionalStem`).
        full_resolution_channels: if not 0, the image goes through a convolution to so many channels, is joined to the
            last expanding's output, and both go through a second one to so many channels for the head; and the input of
            the first encoder stage, which VM-UNet does not use, is added before the last expanding. (Ours.)
        fine_channels: if not 0, the image goes through convolutional stages as in nnU-Net's own network before the
            tokens, one of so many channels at full resolution and, where the patch embedding halves twice, one of twice
            as many at half of it; the decoder has their mirror images in the place of the last expanding, with skips
            from them; and the input of the first encoder stage is added before. Takes the place of the stem and of
            `full_resolution_channels`. (Ours.)
        scan: False: every block has y = x in the place of its scan (`blocks.gated_convolution`); `d_state` then counts
            for nothing. To find out what the scan does. (Ours.)

    Raises:
        ValueError: sizes that do not fit together.
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    encoder_depths: tuple[int, ...] = (2, 2, 2, 2)
    decoder_depths: tuple[int, ...] = (2, 2, 2, 1)
    d_state: int = 16
    drop_path_rate: float = 0.2
    strides: tuple[tuple[int, ...], ...] = ()
    stem: Stem = "patches"
    full_resolution_channels: int = 0
    fine_channels: int = 0
    scan: bool = True

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
        strides = tuple(map(tuple, self.strides or strides_of(len(self.dims))))
        _check_strides(strides, self.dims)
        object.__setattr__(self, "strides", tuple(tuple(map(int, step)) for step in strides))  # NumPy's among them
        if self.stem not in get_args(Stem):
            raise ValueError(f"stem must be {' or '.join(map(repr, get_args(Stem)))}, got {self.stem!r}")
        self._check_additions()
        if not isinstance(self.scan, bool):
            raise ValueError(f"scan must be True or False, got {self.scan!r}")

    def _check_additions(self) -> None:
        for name in ("full_resolution_channels", "fine_channels"):
            if not _is_whole(getattr(self, name)) or not 0 <= getattr(self, name) <= MOST_CHANNELS:
                raise ValueError(
                    f"{name} must be a whole number from 0 to {MOST_CHANNELS}, got {getattr(self, name)!r}"
                )
            object.__setattr__(self, name, int(getattr(self, name)))  # NumPy's among them
        halving = {"stem='convolutions'": self.stem == "convolutions", "fine_channels": self.fine_channels > 0}
        for name, wanted in halving.items():
            if wanted and not {1, 2, 4}.issuperset(self.strides[1]):
                raise ValueError(f"{name} halves once or twice and cannot lower a size by {self.strides[1]}")
        others = [name for name in REPLACED_BY_FINE_STAGES if name in self]
        if self.fine_channels and others:
            raise ValueError(
                f"fine_channels {self.fine_channels} takes the place of the stem and of full_resolution_channels: "
                f"leave out {' and '.join(f'{name} {getattr(self, name)!r}' for name in others)}"
            )

    def __getitem__(self, name: str) -> Any:
        if name not in iter(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (f.name for f in fields(self) if f.name in _PER_STAGE or getattr(self, f.name) != self._default(f))

    def _default(self, field: Field) -> Any:
        if field.name == "strides":
            return tuple(map(tuple, strides_of(len(self.dims))))
        return field.default

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def axes(self) -> int:
        """The network's dimensions: 2 for images, 3 for volumes."""
        return len(self.strides[0])

    @property
    def output_strides(self) -> tuple[tuple[int, ...], ...]:
        """Pixels of the image that a pixel of each of the logits stands for along each axis, the full size first.

        The first are the network's output, the others those of deep supervision.
        """
        return ((1,) * self.axes, *self.stage_strides[:-1])

    @property
    def stage_strides(self) -> tuple[tuple[int, ...], ...]:
        """Pixels of the image that a pixel of each stage stands for along each axis, finest first."""
        return tuple(itertools.accumulate(self.strides[1:], lambda a, b: tuple(map(mul, a, b))))

    def with_strides(self, strides: Sequence[Sequence[int]]) -> "VMUNetSizes":
        """These sizes for other strides; where those have fewer stages, the deepest are left out.

        Raises:
            ValueError: the strides have no stage, or more than there are sizes for, or do not fit together.
        """
        stages = len(strides) - 1
        if stages < 1:
            raise ValueError(f"strides must have an entry for the image and one for each stage, got {strides}")
        return replace(
            self,
            dims=self.dims[:stages],
            encoder_depths=self.encoder_depths[:stages],
            decoder_depths=self.decoder_depths[-stages:],
            strides=tuple(map(tuple, strides)),
        )

    def with_patch_embedding_stride(self, stride: int) -> "VMUNetSizes":
        """These sizes with a patch embedding that lowers the resolution by `stride` along the axes it lowers the most.

        The others keep their proportion to these, as far as there are whole numbers of at least 1: of (2, 4, 4) with a
        stride of 2 remains (1, 2, 2). Stages, channels, depths and mergings stay, so that every stage has a resolution
        the finer: all weights but the patch embedding's and the last expanding's keep their shapes, and those the
        distillation and deep supervision take keep their numbers. (Ours.)

        Raises:
            ValueError: no whole number of at least 2, or one that the stem cannot make.
        """
        if not _is_whole(stride) or stride < 2:
            raise ValueError(f"patch_embedding_stride must be a whole number of at least 2, got {stride!r}")
        first, step, *others = self.strides
        return replace(self, strides=(first, tuple(max(1, n * int(stride) // max(step)) for n in step), *others))


def strides_of(num_stages: int) -> list[list[int]]:
    """The published network's strides, which are those of images, in the form of nnU-Net's plans."""
    return [[1, 1], [PATCH_SIZE, PATCH_SIZE], *([2, 2] for _ in range(num_stages - 1))]


def _is_whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _check_strides(strides: tuple[tuple[int, ...], ...], dims: tuple[int, ...]) -> None:
    if len(strides) != len(dims) + 1:
        raise ValueError(
            f"strides must have an entry for the image and one for each of the {len(dims)} stages of dims {dims}, "
            f"got {strides}"
        )
    axes = len(strides[0])
    if axes not in (2, 3) or any(len(step) != axes for step in strides):
        raise ValueError(f"every entry of strides must have 2 numbers for images or 3 for volumes, got {strides}")
    if any(not isinstance(n, Integral) or n < 1 for step in strides for n in step):
        raise ValueError(f"strides must be whole numbers from 1 on, got {strides}")
    if max(strides[0]) > 1 or any(max(step) == 1 for step in strides[1:]):
        raise ValueError(
            f"strides must begin with the image's own, {(1,) * axes}, and then be larger than 1 along an axis of every "
            f"stage, got {strides}"
        )


_PER_STAGE = ("dims", "encoder_depths", "decoder_depths")
MOST_CHANNELS = 4096  # at full resolution; nobody needs a tenth of it
FINE_CHANNELS = 32  # of the trainers …_fine, as many as nnU-Net's own network begins with
REPLACED_BY_FINE_STAGES = ("stem", "full_resolution_channels")
# Of ours, which the published network does not have.
ADDITIONS = (*REPLACED_BY_FINE_STAGES, "fine_channels", "scan")

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
