"""LayerNorm, optionally gated by SiLU, as one differentiable operator on GPUs; torch's own elsewhere."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import fused_backend, fused_operators

_MAX_CHANNELS = 16384  # of the fused kernels


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, gate: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """LayerNorm over the last axis, times SiLU(gate) if there is a gate; fp32 inside.

    Args:
        x: `(..., D)`.
        weight, bias: `(D,)`.
        eps: added to the variance.
        gate: shape of x; its last axis contiguous, as a half of a wider tensor is.
        dtype: of the result; by default fp32 under autocast, as torch's LayerNorm, and x's dtype without. fp64, which
            autocast leaves alone, stays.
    """
    if x.dtype == torch.float64:
        dtype = x.dtype
    elif dtype is None:
        dtype = torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype
    backend = fused_backend(x.device, x.dtype)
    if backend is not None and x.shape[-1] <= _MAX_CHANNELS and weight.dtype == torch.float32:
        return _layer_norm(x, weight, bias, gate, eps, dtype, backend)
    wider = torch.promote_types(x.dtype, weight.dtype)  # fp16 networks scan in fp32
    y = F.layer_norm(x.to(wider), weight.shape, weight.to(wider), bias.to(wider), eps)
    return (y if gate is None else y * F.silu(gate)).to(dtype)


@torch.library.custom_op("nnunetv2_dsvm::layer_norm", mutates_args=())
@on_its_device
def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, dtype: torch.dtype, backend: str
) -> Tensor:
    return fused_operators(backend).layer_norm_forward(x, weight, bias, gate, eps, dtype)


@torch.library.custom_op("nnunetv2_dsvm::layer_norm_backward", mutates_args=())
@on_its_device
def _layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return fused_operators(backend).layer_norm_backward(grad, x, weight, bias, gate, eps)


@_layer_norm.register_fake
def _(x, weight, bias, gate, eps, dtype, backend):
    return x.new_empty(x.shape, dtype=dtype)


@_layer_norm_backward.register_fake
def _(grad, x, weight, bias, gate, eps, backend):
    grad_gate = x.new_empty(0) if gate is None else gate.new_empty(gate.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape), grad_gate


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, gate, ctx.eps, _, ctx.backend = inputs
    ctx.gated = gate is not None
    ctx.save_for_backward(x, weight, bias, gate)


def _backward(ctx, grad: Tensor):
    *grads, grad_gate = _layer_norm_backward(grad, *ctx.saved_tensors, ctx.eps, ctx.backend)
    return *grads, grad_gate if ctx.gated else None, None, None, None


_layer_norm.register_autograd(_backward, setup_context=_setup_context)
