"""The residual convolutions of nnU-Net's networks in two and three dimensions, of which U-Mamba is built."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import convolution


class InstanceNorm(nn.Module):
    """Instance norm with affine parameters of `(B, C, *sizes)`; unlike torch's it takes a single position, too."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps, True)


class LeakyReLU(nn.LeakyReLU):
    """Of slope 0.01, in place: its input must be a fresh tensor that no other layer keeps."""

    def __init__(self) -> None:
        super().__init__(0.01, inplace=True)


class ConvNorm(nn.Module):
    """Convolution that keeps the size up to its stride, and instance norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int] | int = 1,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        padding = tuple((taps - 1) // 2 for taps in kernel)
        self.conv = convolution(len(kernel))(in_channels, out_channels, kernel, stride, padding, bias=bias)
        self.norm = InstanceNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ResidualConv(nn.Module):
    """conv, norm, leaky ReLU, conv, norm; plus the shortcut of the input; leaky ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: of both convolutions, one number an axis.
        stride: of the first, one number an axis or one for all; the sizes of the input must be multiples of it.
        shortcut: gives the input the shape of the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int] | int = 1,
        *,
        shortcut: nn.Module,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, kernel, stride)
        self.conv2 = ConvNorm(out_channels, out_channels, kernel)
        self.shortcut = shortcut
        self.activation = LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.activation(self.conv1(x)))
        return self.activation(y + self.shortcut(_for_shortcut(x)))


def _for_shortcut(x: Tensor) -> Tensor:
    """x with its positions last in memory, if it is on a CPU and of few channels.

    There the weight gradient of a strided 1x1 convolution writes beyond its memory (oneDNN 3.12, torch 2.14: kernel
    jit_1x1:avx512_core) where fewer than 16 channels stand last, as behind Mamba over the positions.
    """
    return x.contiguous() if x.device.type == "cpu" and x.shape[1] < 16 else x
