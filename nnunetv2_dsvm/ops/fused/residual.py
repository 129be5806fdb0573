"""The sum of a stream and a branch that each image has a factor for, as one differentiable operator on GPUs."""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import fused_backend, fused_operators


def scaled_sum(x: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
    """x + scale * branch; on GPUs in one pass over memory, rounded once.

    Args:
        x, branch: `(B, …)`.
        scale: `(B, 1, …)`, a constant: it gets no gradient.
    """
    backend = fused_backend(x.device, x.dtype)
    alike = x.dtype == branch.dtype and x.shape == branch.shape and len(x) == scale.numel() > 0
    if backend is None or not alike:
        return x + branch * scale
    return _scaled_sum(x, branch, scale, backend)


@torch.library.custom_op("nnunetv2_dsvm::scaled_sum", mutates_args=())
@on_its_device
def _scaled_sum(x: Tensor, branch: Tensor, scale: Tensor, backend: str) -> Tensor:
    return fused_operators(backend).scaled_sum(x, branch, scale)


@torch.library.custom_op("nnunetv2_dsvm::scaled_sum_backward", mutates_args=())
@on_its_device
def _scaled_sum_backward(grad: Tensor, scale: Tensor, backend: str) -> Tensor:
    return fused_operators(backend).scaled_sum(None, grad, scale)


@_scaled_sum.register_fake
def _(x, branch, scale, backend):
    return x.new_empty(x.shape)


@_scaled_sum_backward.register_fake
def _(grad, scale, backend):
    return grad.new_empty(grad.shape)


def _setup_context(ctx, inputs, output) -> None:
    _, _, scale, ctx.backend = inputs
    ctx.save_for_backward(scale)


def _backward(ctx, grad: Tensor):
    return grad, _scaled_sum_backward(grad, *ctx.saved_tensors, ctx.backend), None, None


_scaled_sum.register_autograd(_backward, setup_context=_setup_context)
