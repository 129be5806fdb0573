"""LayerNorm, optionally gated by SiLU, as one differentiable operator on GPUs; torch's own elsewhere."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.triton import launch

# Elements of a program's tile, rows x channels, and its warps: few, so that many programs wait for memory at once.
_FORWARD_TILE = 2048
_BACKWARD_TILE = 4096
_WARPS = 2
_PROGRAMS_PER_PROCESSOR = 4  # of the backward, each of which sums the parameters' gradients over its rows
_MAX_CHANNELS = 16384


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
    if x.shape[-1] <= _MAX_CHANNELS and weight.dtype == torch.float32 and fused(x.device, x.dtype):
        return _layer_norm(x, weight, bias, gate, eps, dtype)
    wider = torch.promote_types(x.dtype, weight.dtype)  # fp16 networks scan in fp32
    y = F.layer_norm(x.to(wider), weight.shape, weight.to(wider), bias.to(wider), eps)
    return (y if gate is None else y * F.silu(gate)).to(dtype)


@torch.compiler.assume_constant_result
def fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused kernel can be used."""
    return launch.supports(device, dtype, 1)[0]


def _blocks(rows: int, channels: int, tile: int) -> dict[str, int]:
    block_d = 1 << (channels - 1).bit_length()
    block_r = max(1, min(tile // block_d, 1 << (rows - 1).bit_length()))
    return {"BLOCK_D": block_d, "BLOCK_R": block_r, "num_warps": max(_WARPS, block_d // 1024)}


def _rows_of(gate: Tensor | None, x: Tensor) -> Tensor | None:
    """The gate as `(rows, D)` without a copy where its rows are evenly spaced."""
    if gate is None:
        return None
    return gate.reshape(-1, x.shape[-1]) if gate.stride(-1) == 1 else gate.contiguous().view(-1, x.shape[-1])


def norm_forward(
    x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, dtype: torch.dtype
) -> Tensor:
    """As `layer_norm`, in `dtype`, by the fused kernel."""
    from nnunetv2_dsvm.ops.triton.norm import norm_forward_kernel

    x = x.contiguous()
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    channels = x.shape[-1]
    rows, gates = x.numel() // channels, _rows_of(gate, x)
    blocks = _blocks(rows, channels, _FORWARD_TILE)
    norm_forward_kernel[(math.ceil(rows / blocks["BLOCK_R"]),)](
        x, weight, bias, gates, out, rows, channels, 0 if gates is None else gates.stride(0), eps,
        GATED=gates is not None, **blocks,
    )  # fmt: skip
    return out


def norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and gate (empty without one) from `grad`, that of the result."""
    from nnunetv2_dsvm.ops.triton.norm import norm_backward_kernel

    grad, x = grad.contiguous(), x.contiguous()
    channels = x.shape[-1]
    rows, gates = x.numel() // channels, _rows_of(gate, x)
    blocks = _blocks(rows, channels, _BACKWARD_TILE)
    row_blocks = math.ceil(rows / blocks["BLOCK_R"])
    programs = min(row_blocks, launch.processors(x.device) * _PROGRAMS_PER_PROCESSOR)
    grad_x = torch.empty_like(x)
    grad_gate = x.new_empty(0) if gate is None else torch.empty(gate.shape, dtype=gate.dtype, device=x.device)
    grad_weight, grad_bias = (torch.empty(programs, channels, device=x.device) for _ in range(2))
    norm_backward_kernel[(programs,)](
        grad, x, weight, bias, gates, grad_x, grad_gate, grad_weight, grad_bias,
        rows, channels, 0 if gates is None else gates.stride(0), eps, row_blocks, GATED=gates is not None,
        **blocks,
    )  # fmt: skip
    return grad_x, grad_weight.sum(0), grad_bias.sum(0), grad_gate


@torch.library.custom_op("nnunetv2_dsvm::layer_norm", mutates_args=())
@on_its_device
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    return norm_forward(x, weight, bias, gate, eps, dtype)


@torch.library.custom_op("nnunetv2_dsvm::layer_norm_backward", mutates_args=())
@on_its_device
def _layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return norm_backward(grad, x, weight, bias, gate, eps)


@_layer_norm.register_fake
def _(x, weight, bias, gate, eps, dtype):
    return x.new_empty(x.shape, dtype=dtype)


@_layer_norm_backward.register_fake
def _(grad, x, weight, bias, gate, eps):
    grad_gate = x.new_empty(0) if gate is None else gate.new_empty(gate.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape), grad_gate


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, gate, ctx.eps, _ = inputs
    ctx.gated = gate is not None
    ctx.save_for_backward(x, weight, bias, gate)


def _backward(ctx, grad: Tensor):
    *grads, grad_gate = _layer_norm_backward(grad, *ctx.saved_tensors, ctx.eps)
    return *grads, grad_gate if ctx.gated else None, None, None


_layer_norm.register_autograd(_backward, setup_context=_setup_context)
