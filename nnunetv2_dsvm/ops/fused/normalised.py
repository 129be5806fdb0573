"""Batch normalisation, ReLU and a depthwise convolution of channels-last images as one differentiable operator.

For fused operators only. Neither the norm's result nor the ReLU's exists in memory: the convolution makes them of each
pixel that it reads.
"""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import fused_backend, fused_operators

_KERNEL = (3, 3)


def supports(x: Tensor, weight: Tensor) -> bool:
    """Whether `normalised_convolution` takes images `(B, H, W, C)` and a convolution's weight `(C, 1, k, k)`.

    They are on a GPU, of fp32 or 16 bit, k is 3, and there is more than one pixel to normalise.
    """
    fits = x.ndim == 4 and weight.shape[2:] == _KERNEL and weight.dtype == torch.float32 and x.numel() > x.shape[-1]
    return fits and fused_backend(x.device, x.dtype) is not None


def normalised_convolution(
    x: Tensor, running_mean: Tensor, running_var: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor,
    bias: Tensor, *, training: bool, momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """conv(relu(batch_norm(x))) + bias; fp32 inside. For images that `supports` takes.

    Args:
        x: `(B, H, W, C)`.
        running_mean, running_var, norm_weight, norm_bias, training, momentum, eps: as of torch's `batch_norm`, which
            with `training` takes the statistics of x and moves the running ones, in place. `(C,)`, fp32.
        weight: `(C, 1, 3, 3)`.
        bias: `(C,)`.

    Returns:
        x's shape and dtype.
    """
    backend = fused_backend(x.device, x.dtype)
    assert backend is not None  # `supports` said so
    mean, var = running_mean, running_var
    if training:
        mean, var = _batch_statistics(x.detach(), backend)
        count = x.numel() // x.shape[-1]
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / (count - 1)), momentum)
    return _convolution(x, mean, var, norm_weight, norm_bias, eps, weight, bias, training, backend)


@torch.library.custom_op("nnunetv2_dsvm::batch_statistics", mutates_args=())
@on_its_device
def _batch_statistics(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return fused_operators(backend).batch_statistics(x)


@torch.library.custom_op("nnunetv2_dsvm::normalised_convolution", mutates_args=())
@on_its_device
def _convolution(
    x: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
    bias: Tensor, batch: bool, backend: str,
) -> Tensor:  # fmt: skip
    return fused_operators(backend).normalised_convolution_forward(
        x, mean, var, norm_weight, norm_bias, eps, weight, bias
    )


@torch.library.custom_op("nnunetv2_dsvm::normalised_convolution_backward", mutates_args=())
@on_its_device
def _convolution_backward(
    grad: Tensor, x: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor,
    bias: Tensor, eps: float, batch: bool, backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return fused_operators(backend).normalised_convolution_backward(
        grad, x, mean, var, norm_weight, norm_bias, eps, weight, bias, batch
    )


@_batch_statistics.register_fake
def _(x, backend):
    return tuple(x.new_empty(x.shape[-1:], dtype=torch.float32) for _ in range(2))


@_convolution.register_fake
def _(x, mean, var, norm_weight, norm_bias, eps, weight, bias, batch, backend):
    return x.new_empty(x.shape)


@_convolution_backward.register_fake
def _(grad, x, mean, var, norm_weight, norm_bias, weight, bias, eps, batch, backend):
    return tuple(t.new_empty(t.shape) for t in (x, norm_weight, norm_bias, weight, bias))


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.eps, weight, bias, ctx.batch, ctx.backend = inputs
    ctx.save_for_backward(*tensors, weight, bias)


def _backward(ctx, grad: Tensor):
    grads = _convolution_backward(grad, *ctx.saved_tensors, ctx.eps, ctx.batch, ctx.backend)
    grad_x, grad_norm_weight, grad_norm_bias, grad_weight, grad_bias = grads
    return grad_x, None, None, grad_norm_weight, grad_norm_bias, None, grad_weight, grad_bias, None, None


_convolution.register_autograd(_backward, setup_context=_setup_context)
