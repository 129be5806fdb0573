"""Convolutional stages at resolutions finer than a VM-UNet's tokens, in the place of its patch embedding. (Ours.)"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import channels_first, channels_last
from nnunetv2_dsvm.architecture.blocks.resampling import PatchExpanding
from nnunetv2_dsvm.architecture.blocks.residual_conv import ConvNorm, LeakyReLU
from nnunetv2_dsvm.architecture.blocks.stem import ConvolutionStep, halvings


class FineEncoder(nn.Module):
    """Image `(B, input_channels, *sizes)` to tokens, and what the stages before them give, for `FineDecoder`.

    Args:
        input_channels: of the image.
        channels: of the stage at full resolution; a second one, at half of it, has twice as many.
        dim: of the tokens.
        step: from the image to the tokens, 1, 2 or 4 along each axis; a stage for each halving.
    """

    def __init__(self, input_channels: int, channels: int, dim: int, step: Sequence[int]) -> None:
        super().__init__()
        steps = [(1,) * len(step), *halvings(step)]
        widths = [input_channels, *_widths(channels, step)]
        self.stages = nn.ModuleList(
            convolutional_stage(before, width, stride)
            for before, width, stride in zip(widths, widths[1:], steps, strict=False)
        )
        self.tokens = ConvolutionStep(widths[-1], dim, steps[-1], activated=False)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens `(B, *(sizes / step), dim)`; of each stage, full resolution first, `(B, channels, *sizes)`."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return self.tokens(x), outputs


class FineDecoder(nn.Module):
    """Tokens `(B, *(sizes / step), dim)` and what `FineEncoder`'s stages gave, to `(B, *sizes, channels)`.

    Arguments as of `FineEncoder`.
    """

    def __init__(self, channels: int, dim: int, step: Sequence[int]) -> None:
        super().__init__()
        widths, ones = _widths(channels, step), (1,) * len(step)
        deepest_first = [dim, *reversed(widths)]
        self.expandings = nn.ModuleList(
            PatchExpanding(before, factor, width)
            for before, width, factor in zip(deepest_first, deepest_first[1:], reversed(halvings(step)), strict=False)
        )
        self.stages = nn.ModuleList(convolutional_stage(2 * width, width, ones) for width in deepest_first[1:])

    def forward(self, x: Tensor, fine: Sequence[Tensor]) -> Tensor:
        for expanding, stage, skip in zip(self.expandings, self.stages, reversed(fine), strict=True):
            x = channels_last(stage(torch.cat([channels_first(expanding(x)), skip], dim=1)))
        return x


def convolutional_stage(in_channels: int, out_channels: int, stride: Sequence[int]) -> nn.Sequential:
    """A stage of nnU-Net's own network: twice a convolution of kernel 3, instance norm and leaky ReLU."""
    kernel = (3,) * len(stride)
    return nn.Sequential(
        ConvNorm(in_channels, out_channels, kernel, tuple(stride)), LeakyReLU(),
        ConvNorm(out_channels, out_channels, kernel), LeakyReLU(),
    )  # fmt: skip


def _widths(channels: int, step: Sequence[int]) -> list[int]:
    return [channels * 2**i for i in range(len(halvings(step)))]
