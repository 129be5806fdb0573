"""Patch embedding, merging and expanding: how VM-UNet (arXiv 2402.02491) changes resolution. Channels last."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm

PATCH_SIZE = 4


class PatchEmbedding(nn.Module):
    """Image `(B, input_channels, H, W)` to tokens `(B, H/4, W/4, dim)`; H and W divisible by 4."""

    def __init__(self, input_channels: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(input_channels, dim, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Halves the resolution, doubles the channels: `(B, H, W, dim)` to `(B, H/2, W/2, 2 dim)`; H and W even."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        # Neighbours in the official order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column): column offset slowest.
        x = x.view(batch, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * dim)))


class PatchExpanding(nn.Module):
    """Multiplies the resolution: `(B, H, W, dim)` to `(B, scale H, scale W, out_dim)`, by a pixel shuffle.

    The decoder's stages use scale 2 and out_dim = dim / 2; the last expanding uses scale 4 and out_dim = dim / 4.
    """

    def __init__(self, dim: int, scale: int, out_dim: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(dim, scale * scale * out_dim, bias=False)
        self.norm = LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        s = self.scale
        x = self.expand(x).view(batch, height, width, s, s, -1).permute(0, 1, 3, 2, 4, 5)
        return self.norm(x.reshape(batch, s * height, s * width, -1))


def pad_to_multiple(x: Tensor, multiple: int | Sequence[int]) -> Tensor:
    """Zero-pads `(B, C, *sizes)` at each axis's end, so that sizes are multiples, one an axis; undone by cropping."""
    steps = [multiple] * (x.ndim - 2) if isinstance(multiple, int) else multiple
    missing = [-size % step for size, step in zip(x.shape[2:], steps, strict=True)]
    return F.pad(x, [n for last_first in reversed(missing) for n in (0, last_first)])
