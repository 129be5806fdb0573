"""How the tokens of two resolutions of a grid correspond: each coarse one stands for some neighbours. Channels last."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Resampling(NamedTuple):
    """A change of resolution that moves values only.

    Attributes:
        step: the factor along each axis.
        merging: whether neighbours become the channels of one token, or one's channels neighbours.
    """

    step: Sequence[int]
    merging: bool

    def __call__(self, x: Tensor) -> Tensor:
        """x, of one resolution, in the other; a copy."""
        return merge_neighbours(x, self.step) if self.merging else shuffle_pixels(x, self.step)

    def shape(self, shape: Sequence[int]) -> torch.Size:
        """That of the result for an x of `shape`; an axis that the step does not divide is cut off."""
        batch, *sizes, channels = shape
        if self.merging:
            coarse = (size // factor for size, factor in zip(sizes, self.step, strict=True))
            return torch.Size((batch, *coarse, prod(self.step) * channels))
        fine = (size * factor for size, factor in zip(sizes, self.step, strict=True))
        return torch.Size((batch, *fine, channels // prod(self.step)))


def merge_neighbours(x: Tensor, step: Sequence[int]) -> Tensor:
    """`(B, *sizes, C)` to `(B, *(sizes / step), prod(step) * C)`; sizes divisible by the step.

    Neighbours in the official order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column): the first axis fastest.
    """
    batch, *sizes, channels = x.shape
    n = len(sizes)
    coarse = [size // factor for size, factor in zip(sizes, step, strict=True)]
    x = x.view(batch, *(length for pair in zip(coarse, step, strict=True) for length in pair), channels)
    x = x.permute(0, *range(1, 2 * n, 2), *range(2 * n, 0, -2), 2 * n + 1)
    return x.reshape(batch, *coarse, prod(step) * channels)


def shuffle_pixels(x: Tensor, step: Sequence[int]) -> Tensor:
    """`(B, *sizes, prod(step) * C)` to `(B, *(step * sizes), C)`, the offsets along the axes slower than the channel.

    `torch.pixel_shuffle` has the channel slowest.
    """
    batch, *sizes, _ = x.shape
    n = len(sizes)
    x = x.view(batch, *sizes, *step, -1)
    x = x.permute(0, *(axis for i in range(1, n + 1) for axis in (i, n + i)), 2 * n + 1)
    return x.reshape(batch, *(s * size for s, size in zip(step, sizes, strict=True)), -1)
