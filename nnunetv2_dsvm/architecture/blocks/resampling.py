"""Patch embedding, merging and expanding: how VM-UNet (arXiv 2402.02491) changes resolution. Channels last.

Of grids of n axes, for n = 2 and 3; of each step its factor along every axis is given.
"""

from collections.abc import Sequence
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import channels_last, convolution
from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm
from nnunetv2_dsvm.ops.dispatch import fused_backend
from nnunetv2_dsvm.ops.resampling import Resampling

PATCH_SIZE = 4  # of the published network, along both axes


class PatchEmbedding(nn.Module):
    """Image `(B, input_channels, *sizes)` to tokens `(B, *(sizes / step), dim)`; sizes divisible by the step."""

    product_weights = ("projection.weight", "projection.bias")

    def __init__(self, input_channels: int, dim: int, step: Sequence[int] = (PATCH_SIZE, PATCH_SIZE)) -> None:
        super().__init__()
        step = tuple(step)
        self.projection = convolution(len(step))(input_channels, dim, kernel_size=step, stride=step)
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        if fused_backend(x.device, x.dtype) is None:
            return self.norm(channels_last(self.projection(x)))
        # The same as a product of patches, whose channels come out last: the convolution's copies of the tokens to and
        # from that order, forward and backward, are several times as large as the image.
        weight = self.projection.weight
        return self.norm(F.linear(_patches(x, weight.shape[2:]), weight.flatten(1), self.projection.bias))


def _patches(x: Tensor, step: Sequence[int]) -> Tensor:
    """Image `(B, C, *sizes)` to `(B, *(sizes / step), C * prod(step))`, in the order of a convolution's weights."""
    batch, channels, *sizes = x.shape
    n = len(sizes)
    coarse = [size // factor for size, factor in zip(sizes, step, strict=True)]
    x = x.view(batch, channels, *(length for pair in zip(coarse, step, strict=True) for length in pair))
    x = x.permute(0, *range(2, 2 * n + 2, 2), 1, *range(3, 2 * n + 2, 2))
    return x.reshape(batch, *coarse, channels * prod(step))


class PatchMerging(nn.Module):
    """Lowers the resolution, doubles the channels: `(B, *sizes, dim)` to `(B, *(sizes / step), 2 dim)`."""

    product_weights = ("reduction.weight",)

    def __init__(self, dim: int, step: Sequence[int] = (2, 2)) -> None:
        super().__init__()
        self.step = tuple(step)
        self.norm = LayerNorm(prod(step) * dim)
        self.reduction = nn.Linear(prod(step) * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(x, Resampling(self.step, merging=True)))


class PatchExpanding(nn.Module):
    """Raises the resolution: `(B, *sizes, dim)` to `(B, *(step * sizes), out_dim)`, by a pixel shuffle.

    The decoder's stages use out_dim = dim / 2; the last expanding uses out_dim = dim / 4.
    """

    product_weights = ("expand.weight",)

    def __init__(self, dim: int, step: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.step = tuple(step)
        self.expand = nn.Linear(dim, prod(step) * out_dim, bias=False)
        self.norm = LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.expand(x), Resampling(self.step, merging=False))


def pad_to_multiple(x: Tensor, multiple: int | Sequence[int]) -> Tensor:
    """Zero-pads `(B, C, *sizes)` at each axis's end to a multiple, one for all axes or one each; undone by cropping."""
    each = [multiple] * (x.ndim - 2) if isinstance(multiple, int) else multiple
    missing = [-size % m for size, m in zip(x.shape[2:], each, strict=True)]
    return F.pad(x, [n for at_end in reversed(missing) for n in (0, at_end)])
