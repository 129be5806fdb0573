"""LayerNorm, optionally gated by SiLU, as one differentiable operator on GPUs; torch's own elsewhere."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops import triton_ss2d
from nnunetv2_dsvm.ops.on_device import on_its_device

# Elements of a program's tile, rows x channels, and its warps: few, so that many programs wait for memory at once.
_FORWARD_TILE = 2048
_BACKWARD_TILE = 1024
_WARPS = 2
_PROGRAMS_PER_PROCESSOR = 8  # of the backward, each of which sums the parameters' gradients over its rows
_SUM_TILE = (256, 16)  # rows x channels
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
    return triton_ss2d.supports(device, dtype, 1)[0]


def _blocks(rows: int, channels: int, tile: int, warps: int = _WARPS) -> dict[str, int]:
    block_d = 1 << (channels - 1).bit_length()
    block_r = max(1, min(tile // block_d, 1 << (rows - 1).bit_length()))
    return {"BLOCK_D": block_d, "BLOCK_R": block_r, "num_warps": max(warps, block_d // 1024)}


def _units(channels: int) -> tuple[int, int]:
    """(units, channels of a unit): eight channels of 16 bits are the widest load."""
    unit = 8 if channels % 8 == 0 else 1
    return channels // unit, unit


def _rows_of(gate: Tensor | None, x: Tensor) -> Tensor | None:
    """The gate as `(rows, D)` without a copy where its rows are evenly spaced."""
    if gate is None:
        return None
    return gate.reshape(-1, x.shape[-1]) if gate.stride(-1) == 1 else gate.contiguous().view(-1, x.shape[-1])


def norm_forward(
    x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, dtype: torch.dtype
) -> Tensor:
    """As `layer_norm`, in `dtype`, by the fused kernel."""
    from nnunetv2_dsvm.ops.triton_norm import norm_forward_kernel

    x = x.contiguous()
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    channels = x.shape[-1]
    rows, gates = x.numel() // channels, _rows_of(gate, x)
    blocks, (units, unit) = _blocks(rows, channels, _FORWARD_TILE), _units(channels)
    norm_forward_kernel[(math.ceil(rows / blocks["BLOCK_R"]),)](
        x, weight, bias, gates, out, rows, units, 0 if gates is None else gates.stride(0), eps,
        GATED=gates is not None, UNIT=unit, **blocks,
    )  # fmt: skip
    return out


def norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and gate (empty without one) from `grad`, that of the result."""
    from nnunetv2_dsvm.ops.triton_norm import norm_backward_kernel, sum_rows_kernel

    grad, x = grad.contiguous(), x.contiguous()
    channels = x.shape[-1]
    rows, gates = x.numel() // channels, _rows_of(gate, x)
    # One warp sums over channels without the others, as long as two rows of three tensors fit into its registers.
    warps = 1 if gates is not None and channels <= 512 else _WARPS
    blocks, (units, unit) = _blocks(rows, channels, _BACKWARD_TILE, warps), _units(channels)
    row_blocks = math.ceil(rows / blocks["BLOCK_R"])
    programs = min(row_blocks, triton_ss2d.processors(x.device) * _PROGRAMS_PER_PROCESSOR)
    grad_x = torch.empty_like(x)
    grad_gate = x.new_empty(0) if gate is None else torch.empty(gate.shape, dtype=gate.dtype, device=x.device)
    grad_weight, grad_bias = (torch.empty(programs, channels, device=x.device) for _ in range(2))
    norm_backward_kernel[(programs,)](
        grad, x, weight, bias, gates, grad_x, grad_gate, grad_weight, grad_bias,
        rows, units, 0 if gates is None else gates.stride(0), eps, row_blocks, GATED=gates is not None,
        UNIT=unit, **blocks,
    )  # fmt: skip
    sums = torch.empty_like(weight), torch.empty_like(weight)
    sum_rows_kernel[(math.ceil(channels / _SUM_TILE[1]), 2)](
        grad_weight, grad_bias, *sums, programs, channels, BLOCK_R=_SUM_TILE[0], BLOCK_D=_SUM_TILE[1], num_warps=8
    )
    return grad_x, *sums, grad_gate


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
