"""Convolutions at a network's fine end, where a patch embedding sees nothing beyond its patch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import channels_first, channels_last, convolution
from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm
from nnunetv2_dsvm.architecture.blocks.resampling import PatchExpanding
from nnunetv2_dsvm.architecture.blocks.residual_conv import ConvNorm, LeakyReLU


class ConvolutionStep(nn.Module):
    """Convolution with a kernel of 3 along every axis, LayerNorm, and GELU unless it is the last of a stem.

    `(B, in_channels, *sizes)` to channels last, `(B, *(sizes / step), out_channels)`; sizes divisible by the step.
    """

    def __init__(self, in_channels: int, out_channels: int, step: Sequence[int], activated: bool = True) -> None:
        super().__init__()
        self.convolution = convolution(len(step))(
            in_channels, out_channels, kernel_size=3, stride=tuple(step), padding=1
        )
        self.norm = LayerNorm(out_channels)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(channels_last(self.convolution(x)))
        return F.gelu(x) if self.activated else x


def halvings(step: Sequence[int]) -> list[list[int]]:
    """One or two steps of 1 or 2 along each axis for a step of 1, 2 or 4, which is their product.

    An axis with a smaller one is halved last, as nnU-Net's planner begins with the axes of the smallest spacing.
    """
    last = [min(factor, 2) for factor in step]
    before = [factor // 2 if factor > 2 else 1 for factor in step]
    return [before, last] if max(before) > 1 else [last]


class ConvolutionalStem(nn.Module):
    """Image `(B, input_channels, *sizes)` to tokens `(B, *(sizes / step), dim)` by a convolution for each halving.

    The first of two gives half of the channels. That of an image with a step of 4 is the one of VMamba's second
    generation (arXiv 2401.10166).

    Args:
        input_channels: of the image.
        dim: channels of the tokens.
        step: 1, 2 or 4 along each axis, see `halvings`.
    """

    def __init__(self, input_channels: int, dim: int, step: Sequence[int]) -> None:
        super().__init__()
        steps = halvings(step)
        widths = [input_channels, *[dim // 2] * (len(steps) - 1), dim]
        self.steps = nn.ModuleList(
            ConvolutionStep(widths[i], widths[i + 1], step, activated=i + 1 < len(steps))
            for i, step in enumerate(steps)
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.steps
        x = first(x)
        for step in others:
            x = step(channels_first(x))
        return x


class FineEncoder(nn.Module):
    """nnU-Net's own convolutional stages at resolutions finer than the tokens, and the tokens. (Ours.)

    Args:
        input_channels: of the image.
        channels: of the stage at full resolution; a second one, at half of it, has twice as many.
        dim: of the tokens.
        step: from the image to the tokens, 1, 2 or 4 along each axis; a stage for each halving.
    """

    def __init__(self, input_channels: int, channels: int, dim: int, step: Sequence[int]) -> None:
        super().__init__()
        steps = [(1,) * len(step), *halvings(step)]
        widths = [input_channels, *fine_widths(channels, steps[1:])]
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
        steps, ones = halvings(step), (1,) * len(step)
        deepest_first = [dim, *reversed(fine_widths(channels, steps))]
        self.expandings = nn.ModuleList(
            PatchExpanding(before, factor, width)
            for before, width, factor in zip(deepest_first, deepest_first[1:], reversed(steps), strict=False)
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


def fine_widths(channels: int, halvings: Sequence[Sequence[int]]) -> list[int]:
    """Channels of the stage in front of each halving."""
    return [channels * 2**i for i in range(len(halvings))]
