"""LayerNorm, gated by SiLU or of another resolution: one differentiable operator on GPUs; torch's own elsewhere."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import fused_backend, fused_operators
from nnunetv2_dsvm.ops.resampling import Resampling

_MAX_CHANNELS = 16384  # of the fused kernels
_MAX_AXES = 3
_MAX_TOKENS = 1 << 30  # of the finer grid: the kernels count them in 32 bits


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    gate: Tensor | None = None,
    dtype: torch.dtype | None = None,
    resampling: Resampling | None = None,
) -> Tensor:
    """LayerNorm over the last axis of x, or of `resampling(x)`, times SiLU(gate) if there is a gate; fp32 inside.

    Args:
        x: `(..., D)`, or what is resampled to that.
        weight, bias: `(D,)`.
        eps: added to the variance.
        gate: shape of x; its last axis contiguous, as a half of a wider tensor is. Not with a resampling.
        dtype: of the result; by default fp32 under autocast, as torch's LayerNorm, and x's dtype without. fp64, which
            autocast leaves alone, stays.
        resampling: the fused kernel moves the values as it reads or writes them.
    """
    if x.dtype == torch.float64:
        dtype = x.dtype
    elif dtype is None:
        dtype = torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype
    backend = fused_backend(x.device, x.dtype)
    if backend is not None and weight.numel() <= _MAX_CHANNELS and weight.dtype == torch.float32:
        if resampling is not None and not _resampled_by_kernel(x, resampling):
            x, resampling = resampling(x), None
        step, merging = ((), False) if resampling is None else resampling
        return _layer_norm(x, weight, bias, gate, eps, dtype, backend, step, merging)
    if resampling is not None:
        x = resampling(x)
    wider = torch.promote_types(x.dtype, weight.dtype)  # fp16 networks scan in fp32
    y = F.layer_norm(x.to(wider), weight.shape, weight.to(wider), bias.to(wider), eps)
    return (y if gate is None else y * F.silu(gate)).to(dtype)


def _resampled_by_kernel(x: Tensor, resampling: Resampling) -> bool:
    """Whether the grid is one that the kernels know; what has no whole steps is refused by the resampling itself."""
    _, *sizes, channels = x.shape
    step, merging = resampling
    tokens = x.shape[0] * prod(sizes) * (1 if merging else prod(step))
    divided = zip(sizes, step, strict=True) if merging else [(channels, prod(step))]
    whole = not any(size % factor for size, factor in divided)
    return whole and len(sizes) <= _MAX_AXES and tokens < _MAX_TOKENS


@torch.library.custom_op("nnunetv2_dsvm::layer_norm", mutates_args=())
@on_its_device
def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, dtype: torch.dtype, backend: str,
    step: Sequence[int], merging: bool,
) -> Tensor:  # fmt: skip
    return fused_operators(backend).layer_norm_forward(x, weight, bias, gate, eps, dtype, _resampling(step, merging))


@torch.library.custom_op("nnunetv2_dsvm::layer_norm_backward", mutates_args=())
@on_its_device
def _layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, backend: str,
    step: Sequence[int], merging: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return fused_operators(backend).layer_norm_backward(grad, x, weight, bias, gate, eps, _resampling(step, merging))


def _resampling(step: Sequence[int], merging: bool) -> Resampling | None:
    return Resampling(step, merging) if step else None


@_layer_norm.register_fake
def _(x, weight, bias, gate, eps, dtype, backend, step, merging):
    return x.new_empty(Resampling(step, merging).shape(x.shape) if step else x.shape, dtype=dtype)


@_layer_norm_backward.register_fake
def _(grad, x, weight, bias, gate, eps, backend, step, merging):
    grad_gate = x.new_empty(0) if gate is None else gate.new_empty(gate.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape), grad_gate


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, gate, ctx.eps, _, *ctx.call = inputs
    ctx.gated = gate is not None
    ctx.save_for_backward(x, weight, bias, gate)


def _backward(ctx, grad: Tensor):
    *grads, grad_gate = _layer_norm_backward(grad, *ctx.saved_tensors, ctx.eps, *ctx.call)
    return *grads, grad_gate if ctx.gated else None, None, None, None, None, None


_layer_norm.register_autograd(_backward, setup_context=_setup_context)
