"""Depthwise convolution of channels-last grids, SiLU after it or not: one differentiable operator on GPUs."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.device import autocast_dtype, on_its_device
from nnunetv2_dsvm.ops.dispatch import fused_backend, fused_operators

_KERNELS = {4: (3, 5), 5: (3,)}  # by the axes of x; the fused kernels' registers hold the sums of no more taps


def depthwise_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Literal["silu", "none"] = "none"
) -> Tensor:
    """conv(x) + bias of each channel by itself, with zeros around x, or SiLU of that; fp32 inside on GPUs.

    Args:
        x: `(B, *sizes, C)` of two or three axes.
        weight: `(C, 1, k, …)`, k odd.
        bias: `(C,)`.
        activation: what follows.

    Returns:
        x's shape, in autocast's dtype, without autocast in x's. fp64, which autocast leaves alone, stays.
    """
    dtype = x.dtype if x.dtype == torch.float64 else autocast_dtype(x)
    backend = fused_backend(x.device, dtype)
    silu = activation == "silu"
    if backend is not None and _by_kernel(x, weight):
        return _convolution(x.to(dtype), weight, bias, silu, backend)
    axes = range(1, x.ndim - 1)
    convolution = F.conv2d if len(axes) == 2 else F.conv3d
    padding = [size // 2 for size in weight.shape[2:]]
    y = convolution(x.permute(0, -1, *axes), weight, bias, padding=padding, groups=len(weight))
    y = y.permute(0, *(axis + 1 for axis in axes), 1)
    return F.silu(y) if silu else y


def _by_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether the weight is of a kernel that is there and of x's channels; what is not is torch's, also to refuse."""
    size = weight.shape[-1]
    fits = weight.shape == (x.shape[-1], 1, *[size] * (x.ndim - 2)) and x.numel() > 0
    return fits and size in _KERNELS.get(x.ndim, ())


@torch.library.custom_op("nnunetv2_dsvm::depthwise_convolution", mutates_args=())
@on_its_device
def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str) -> Tensor:
    return fused_operators(backend).convolution_forward(x, weight, bias, silu)


@torch.library.custom_op("nnunetv2_dsvm::depthwise_convolution_backward", mutates_args=())
@on_its_device
def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return fused_operators(backend).convolution_backward(grad, x, weight, bias, silu, False)


@_convolution.register_fake
def _(x, weight, bias, silu, backend):
    return x.new_empty(x.shape)


@_convolution_backward.register_fake
def _(grad, x, weight, bias, silu, backend):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:1])


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, *ctx.call = inputs
    ctx.biased = bias is not None
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx, grad: Tensor):
    grad_x, grad_weight, grad_bias = _convolution_backward(grad, *ctx.saved_tensors, *ctx.call)
    return grad_x, grad_weight, grad_bias if ctx.biased else None, None, None


_convolution.register_autograd(_backward, setup_context=_setup_context)
