"""The block of VMamba's second generation (arXiv 2401.10166) and what changes resolution around it. Channels last."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import depthwise
from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm
from nnunetv2_dsvm.architecture.blocks.vss_block import DropPath, added
from nnunetv2_dsvm.ops.layer_norm import layer_norm


class UngatedSS2D(DirectionalScan):
    """Four-direction selective scan without a gate, `(B, H, W, dim)` to the same shape.

    Args:
        dim: channels.
        ratio: d_inner as a multiple of dim.
        d_state: states per channel, N.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
    """

    product_weights = ("in_proj.weight", "x_proj", "dt_proj", "out_proj.weight")  # see `cuda_graphs.converted_weights`

    def __init__(self, dim: int, ratio: int = 1, d_state: int = 1, scan_backend: str = "auto") -> None:
        d_inner = ratio * dim
        super().__init__(d_inner, math.ceil(dim / 16), d_state, scan_backend=scan_backend)
        self.in_proj = nn.Linear(dim, d_inner, bias=False)
        self.conv = nn.Conv2d(d_inner, d_inner, kernel_size=3, padding=1, groups=d_inner, bias=False)
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)
        self.reset_scan_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        dtype = x.dtype
        x = depthwise(self.conv, x, "silu")
        norm = self.out_norm
        return self.out_proj(layer_norm(self.scan(x), norm.weight, norm.bias, norm.eps, dtype=dtype))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between, four times as wide inside."""

    product_weights = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VMamba2Block(nn.Module):
    """`x + DropPath(SS2D(LayerNorm(x)))`, then `x + DropPath(FFN(LayerNorm(x)))`, on `(B, H, W, dim)`.

    Args:
        dim: channels.
        ratio: of the scan's channels, d_inner / dim.
        drop_path: probability of stochastic depth.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
        ffn: makes the FFN of so many channels.
    """

    def __init__(
        self,
        dim: int,
        ratio: int = 1,
        drop_path: float = 0.0,
        scan_backend: str = "auto",
        ffn: Callable[[int], nn.Module] = FeedForward,
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.ss2d = UngatedSS2D(dim, ratio, scan_backend=scan_backend)
        self.norm2 = LayerNorm(dim)
        self.ffn = ffn(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = added(x, self.ss2d(self.norm(x)), self.drop_path)
        return added(x, self.ffn(self.norm2(x)), self.drop_path)


class HalvingConvolution(nn.Module):
    """`(B, H, W, in_channels)` to `(B, ⌈H/2⌉, ⌈W/2⌉, out_channels)`: a 3×3 convolution with stride 2, and a norm."""

    product_weights = ("conv.weight", "conv.bias")

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ConvolutionalStem(nn.Module):
    """Image `(B, input_channels, H, W)` to tokens `(B, ⌈H/4⌉, ⌈W/4⌉, dim)` by two convolutions, of any size."""

    def __init__(self, input_channels: int, dim: int) -> None:
        super().__init__()
        self.first = HalvingConvolution(input_channels, dim // 2)
        self.second = HalvingConvolution(dim // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x.permute(0, 2, 3, 1))))
