"""The segmentation head: a convolution of kernel size 1, whose product is aligned in memory on GPUs."""

from collections.abc import Callable
from math import gcd
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import Convolution, channels_first, channels_last
from nnunetv2_dsvm.ops.device import autocast_dtype
from nnunetv2_dsvm.ops.dispatch import fused_backend
from nnunetv2_dsvm.ops.once_differentiable import once_differentiable

_ALIGNMENT = 8  # numbers of 16 bit: the 16 bytes that tensor cores' products load at once


class _Head(nn.Module):
    product_weights = ("weight", "bias")

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, *sizes)` to logits `(B, classes, *sizes)`."""
        logits = _by_rows(cast(Convolution, self), x)
        return super().forward(x) if logits is None else logits


class Head2d(_Head, nn.Conv2d):
    """Of images."""


class Head3d(_Head, nn.Conv3d):
    """Of volumes."""


def head(axes: int) -> Callable[..., Convolution]:
    """The head of grids with 2 or 3 axes; arguments as of a convolution, with `kernel_size=1`."""
    return Head2d if axes == 2 else Head3d


def _by_rows(layer: Convolution, x: Tensor) -> Tensor | None:
    """The head as `_ByRows`.

    None where the convolution is as good, where the kernels do not run, and in a program that torch compiles, exports
    or traces.
    """
    dtype = autocast_dtype(x)
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if recorded or dtype not in (torch.float16, torch.bfloat16) or fused_backend(x.device, x.dtype) is None:
        return None
    x = channels_last(x)
    *sizes, channels = x.shape
    pixels = _ALIGNMENT // gcd(_ALIGNMENT, layer.out_channels)
    if layer.bias is None or pixels == 1 or x.numel() // channels % pixels:
        return None
    rows = x.reshape(-1, pixels * channels).to(dtype)
    logits = cast(Tensor, _ByRows.apply(rows, layer.weight.to(dtype).flatten(1), layer.bias.to(dtype), pixels))
    return channels_first(logits.view(*sizes, layer.out_channels))


class _ByRows(torch.autograd.Function):
    """A product of rows of several pixels with a block-diagonal matrix that has the weights in each block.

    One pixel's two classes are 4 bytes, and cuBLAS has only slow products of such rows, forward and backward. Zeros for
    further classes would be cut off again, and the gradient padded to four times its size; several pixels of all
    classes lie in memory as they are. That most of the matrix is zeros costs no time: reading x takes longer.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
        blocks = torch.diag_embed(weight.unsqueeze(-1).expand(-1, -1, pixels), dim1=0, dim2=2)
        matrix = blocks.view(-1, rows.shape[1])
        ctx.save_for_backward(rows, matrix)
        ctx.blocks = blocks.shape
        return F.linear(rows, matrix, bias.repeat(pixels))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, matrix = ctx.saved_tensors
        pixels, classes = ctx.blocks[:2]
        of_weight = torch.mm(grad.t(), rows).view(ctx.blocks).diagonal(dim1=0, dim2=2).sum(-1)
        # Of positive and negative numbers, which may cancel: not of sums that are rounded to 16 bit.
        of_bias = grad.sum(0, dtype=torch.float32).view(pixels, classes).sum(0)
        return torch.mm(grad, matrix), of_weight, of_bias.to(grad.dtype), None
