"""Depthwise convolution, SiLU after it or not, and its gradients, on channels-last images and volumes: launches."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings
from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2
from nnunetv2_dsvm.ops.triton.sums import sum_rows

_MAX_BLOCK_C = 64
_WARPS = 2  # of a program: few, so that the registers of a multiprocessor are used up


class _Plan(NamedTuple):
    """How the kernels cut their work: see `kernels/conv.py`."""

    columns: int  # pixels of a strip: each costs registers, and spreads the loads of the k - 1 columns around it
    lane_bytes: int  # that a lane loads at once: as many channels are in its registers
    programs: int  # to aim at for each multiprocessor


# For k = 3 in 16 bit, compiled for sm_90, a lane takes 128 and 144 registers: 8 and 7 programs of two warps fit. The
# forward has more for balance; the backward has no more than fit, because each leaves sums of its own.
_FORWARD = _Plan(columns=4, lane_bytes=8, programs=12)
_BACKWARD = _Plan(columns=4, lane_bytes=4, programs=7)
# The backward without SiLU, one kernel: 128 registers.
_PLAIN_BACKWARD = _Plan(columns=4, lane_bytes=4, programs=8)
# For k = 5 128 registers forward, and backward 230, with SiLU 250: 4 programs fit. Any more channels a lane spill.
_LARGE_FORWARD = _Plan(columns=4, lane_bytes=4, programs=12)
_LARGE_BACKWARD = _Plan(columns=4, lane_bytes=4, programs=4)
# Volumes have k times as many taps. In 16 bit a lane takes 206 registers for all 27 of them, so that 4 programs fit,
# and spills with 8 bytes; for the sums of 9 it takes 96: 10 fit, and each program is one of three, a plane each.
_VOLUME = _Plan(columns=4, lane_bytes=4, programs=8)
_VOLUME_SUMS = _Plan(columns=4, lane_bytes=4, programs=4)


def _backward_plan(axes: int, kernel: int, silu: bool) -> _Plan:
    if axes == 3:
        return _VOLUME_SUMS
    if kernel > 3:
        return _LARGE_BACKWARD
    return _BACKWARD if silu else _PLAIN_BACKWARD


def convolution_forward(
    u: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, settings: LaunchSettings
) -> Tensor:  # fmt: skip
    """As `FusedOperators.convolution_forward`, of images `(B, H, W, C)` or volumes `(B, D, H, W, C)`."""
    u = u.contiguous()
    out = torch.empty_like(u)
    _convolve(u, weight, bias, None, out, settings, ACTIVATED=silu, TRANSPOSED=False)
    return out


def convolution_backward(
    grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, own: bool, settings: LaunchSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """As `FusedOperators.convolution_backward`."""
    from nnunetv2_dsvm.ops.triton.kernels.conv_backward import (
        conv_backward_kernel,
        conv_silu_backward_kernel,
        volume_weight_kernel,
    )

    grad, u, weight = grad.contiguous(), u.contiguous(), weight.contiguous()
    channels, volumes = u.shape[-1], u.ndim == 5
    plan = _backward_plan(u.ndim - 2, weight.shape[-1], silu)
    grid, rows, constants = _launch(u, weight, plan, settings)
    programs = grid[0] // math.ceil(channels / constants["BLOCK_C"]) * grid[1]
    sums = torch.empty(programs, *weight.shape, device=u.device), torch.empty(programs, channels, device=u.device)
    images, depth, *sizes = _sizes(u)
    grad_u = torch.empty_like(u)
    grad_v = grad if own or not silu else torch.empty_like(u)  # of silu's argument
    if volumes:
        if silu:
            _convolve(u, weight, bias, grad, grad_v, settings, ACTIVATED=True, TRANSPOSED=False)
        planes = grid[0], grid[1], constants["K"]
        volume_weight_kernel[planes](grad_v, u, *sums, images, depth, *sizes, rows, **constants, num_warps=_WARPS)
    elif silu:
        conv_silu_backward_kernel[grid](
            grad, u, weight, bias, None if own else grad_v, *sums, images, *sizes, rows, **constants, num_warps=_WARPS
        )
    else:
        conv_backward_kernel[grid](grad, u, weight, grad_u, *sums, images, *sizes, rows, **constants, num_warps=_WARPS)
    if volumes or silu:
        _convolve(grad_v, weight, None, None, grad_u, settings, ACTIVATED=False, TRANSPOSED=True)
    like_bias = weight.new_empty(channels) if bias is None else bias
    return grad_u, *sum_rows(*sums, weight, like_bias, put_off=own)


def _convolve(
    u: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None, out: Tensor, settings: LaunchSettings,
    **constants: bool,
) -> None:  # fmt: skip
    """Launches `conv_kernel`, whose result is written to `out`."""
    from nnunetv2_dsvm.ops.triton.kernels.conv import conv_kernel

    volumes = u.ndim == 5
    plan = _VOLUME if volumes else _LARGE_FORWARD if weight.shape[-1] > 3 else _FORWARD
    grid, rows, of_plan = _launch(u, weight, plan, settings)
    conv_kernel[grid](
        u, weight.contiguous(), bias, grad, out, *_sizes(u), rows,
        PLANES=of_plan["K"] if volumes else 1, **constants, **of_plan, num_warps=_WARPS,
    )  # fmt: skip


def _sizes(u: Tensor) -> tuple[int | None, ...]:
    """(images, of a volume, height, width, channels), None for images that are no volumes' planes."""
    *batch, height, width, channels = u.shape
    return math.prod(batch), batch[1] if len(batch) == 2 else None, height, width, channels


def _launch(
    u: Tensor, weight: Tensor, plan: _Plan, settings: LaunchSettings
) -> tuple[tuple[int, int], int, dict[str, int]]:
    """(the grid: strips and channels, rows; the rows of a program; the kernels' constants)."""
    *batch, height, width, channels = u.shape
    block_c = min(_MAX_BLOCK_C, next_power_of_2(channels))
    strips = max(1, 32 * _WARPS * plan.lane_bytes // u.element_size() // block_c)
    across = math.ceil(math.prod(batch) * math.ceil(width / plan.columns) / strips) * math.ceil(channels / block_c)
    chunks = max(1, settings.processors_of(u.device) * plan.programs // across)
    rows = max(settings.convolution_rows, math.ceil(height / chunks))
    constants = {"K": weight.shape[-1], "COLUMNS": plan.columns, "G": strips, "BLOCK_C": block_c}
    return (across, math.ceil(height / rows)), rows, constants
