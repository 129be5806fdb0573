"""Launches of LayerNorm's kernels: gated by SiLU, of another resolution, of the sum of the scan's directions."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.resampling import Resampling
from nnunetv2_dsvm.ops.scan_inputs import token_strides
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings
from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2
from nnunetv2_dsvm.ops.triton.sums import sum_rows

# Elements of a program's tile, rows x channels, and its warps: few, so that many programs wait for memory at once.
_FORWARD_TILE = 2048
_MERGE_TILE = 1024
_BACKWARD_TILE = 1024
_WARPS = 2
_PROGRAMS_PER_PROCESSOR = 8  # of the backward, each of which sums the parameters' gradients over its rows


def _blocks(rows: int, channels: int, tile: int, warps: int = _WARPS) -> dict[str, int]:
    block_d = next_power_of_2(channels)
    block_r = max(1, min(tile // block_d, next_power_of_2(rows)))
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


def _grid(x: Tensor, resampling: Resampling | None) -> tuple[tuple[int | None, int | None], dict[str, int | bool]]:
    """The kernels' arguments for a resampling: (sizes of the coarse grid's last two axes, constants).

    Leading axes without a step are as good as more images, and so is a leading axis that a grid lacks.
    """
    if resampling is None:
        return (None, None), {"MERGING": False, "EXPANDING": False, "S0": 1, "S1": 1, "S2": 1}
    step, merging = resampling
    _, *sizes, _ = resampling.shape(x.shape) if merging else x.shape
    *_, height, width = 1, *sizes
    s0, s1, s2 = (1, 1, *step)[-3:]
    return (height, width), {"MERGING": merging, "EXPANDING": not merging, "S0": s0, "S1": s1, "S2": s2}


def norm_forward(
    x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, dtype: torch.dtype,
    resampling: Resampling | None = None,
) -> Tensor:  # fmt: skip
    """As `FusedOperators.layer_norm_forward`."""
    from nnunetv2_dsvm.ops.triton.kernels.norm import norm_forward_kernel

    x = x.contiguous()
    shape = x.shape if resampling is None else resampling.shape(x.shape)
    out = torch.empty(shape, dtype=dtype, device=x.device)
    channels = shape[-1]
    rows, gates = x.numel() // channels, _rows_of(gate, x)
    blocks, (units, unit) = _blocks(rows, channels, _FORWARD_TILE), _units(min(channels, x.shape[-1]))
    sizes, constants = _grid(x, resampling)
    norm_forward_kernel[(math.ceil(rows / blocks["BLOCK_R"]),)](
        x, weight, bias, gates, out, rows, units, 0 if gates is None else gates.stride(0), eps, *sizes,
        GATED=gates is not None, UNIT=unit, **constants, **blocks,
    )  # fmt: skip
    return out


def merge_norm_forward(
    parts: Tensor, skip: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, eps: float,
    dtype: torch.dtype, keep: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`norm_forward` of what `elementwise.merge` makes of the first three in the type of `parts`, and with `keep` that.

    Both `(batch, L, channels)`, in one launch.
    """
    from nnunetv2_dsvm.ops.triton.kernels.norm import merge_norm_kernel

    batch, length, directions, channels = parts.shape
    out = torch.empty(batch, length, channels, dtype=dtype, device=parts.device)
    merged = torch.empty_like(out, dtype=parts.dtype) if keep else None
    rows = batch * length
    blocks, (units, unit) = _blocks(rows, channels, _MERGE_TILE), _units(channels)
    merge_norm_kernel[(math.ceil(rows / blocks["BLOCK_R"]),)](
        parts, skip, scale.contiguous(), weight, bias, gate.contiguous(), merged, out, rows, units,
        *token_strides(skip), eps, KEEP=keep, K=directions, UNIT=unit, **blocks,
    )  # fmt: skip
    return out, merged


def norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float,
    resampling: Resampling | None, settings: LaunchSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `FusedOperators.layer_norm_backward`."""
    from nnunetv2_dsvm.ops.triton.kernels.norm import norm_backward_kernel

    grad, x = grad.contiguous(), x.contiguous()
    channels = grad.shape[-1]
    rows, gates = x.numel() // channels, _rows_of(gate, x)
    # One warp sums over channels without the others, as long as two rows of three tensors fit into its registers.
    warps = 1 if gates is not None and channels <= 512 else _WARPS
    blocks, (units, unit) = _blocks(rows, channels, _BACKWARD_TILE, warps), _units(min(channels, x.shape[-1]))
    sizes, constants = _grid(x, resampling)
    row_blocks = math.ceil(rows / blocks["BLOCK_R"])
    programs = min(row_blocks, settings.processors_of(x.device) * _PROGRAMS_PER_PROCESSOR)
    grad_x = torch.empty_like(x)
    grad_gate = x.new_empty(0) if gate is None else torch.empty(gate.shape, dtype=gate.dtype, device=x.device)
    grad_weight, grad_bias = (torch.empty(programs, channels, device=x.device) for _ in range(2))
    norm_backward_kernel[(programs,)](
        grad, x, weight, bias, gates, grad_x, grad_gate, grad_weight, grad_bias,
        rows, units, 0 if gates is None else gates.stride(0), eps, row_blocks, *sizes,
        GATED=gates is not None, UNIT=unit, **constants, **blocks,
    )  # fmt: skip
    return grad_x, *sum_rows(grad_weight, grad_bias, weight, bias), grad_gate
