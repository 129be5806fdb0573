"""Depthwise convolution with SiLU after it, and its gradients, on channels-last images and volumes: launches."""

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
# Volumes have k times as many taps. In 16 bit a lane takes 206 registers for all 27 of them, so that 4 programs fit,
# and spills with 8 bytes; for the sums of 9 it takes 96: 10 fit, and each program is one of three, a plane each.
_VOLUME = _Plan(columns=4, lane_bytes=4, programs=8)
_VOLUME_SUMS = _Plan(columns=4, lane_bytes=4, programs=4)


def conv_silu_forward(u: Tensor, weight: Tensor, bias: Tensor, settings: LaunchSettings) -> Tensor:
    """As `FusedOperators.conv_silu_forward`, of images `(B, H, W, C)` or volumes `(B, D, H, W, C)`."""
    return _convolve(u.contiguous(), weight, settings, bias)


def conv_silu_backward(
    grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor, settings: LaunchSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """As `FusedOperators.conv_silu_backward`."""
    from nnunetv2_dsvm.ops.triton.kernels.conv import conv_silu_backward_kernel, volume_weight_kernel

    u, weight = u.contiguous(), weight.contiguous()
    channels, volumes = u.shape[-1], u.ndim == 5
    grid, rows, constants = _launch(u, weight, _VOLUME_SUMS if volumes else _BACKWARD, settings)
    programs = grid[0] // math.ceil(channels / constants["BLOCK_C"]) * grid[1]
    grad_weight = torch.empty(programs, *weight.shape, device=u.device)
    grad_bias = torch.empty(programs, channels, device=u.device)
    images, depth, *sizes = _sizes(u)
    if volumes:
        _convolve(u, weight, settings, bias, grad)
        planes = grid[0], grid[1], constants["K"]
        volume_weight_kernel[planes](
            grad, u, grad_weight, grad_bias, images, depth, *sizes, rows, **constants, num_warps=_WARPS
        )
    else:
        conv_silu_backward_kernel[grid](
            grad, u, weight, bias, grad_weight, grad_bias, images, *sizes, rows, **constants, num_warps=_WARPS
        )
    grad_u = _convolve(grad, weight, settings)
    return grad_u, *sum_rows(grad_weight, grad_bias, weight, bias)


def _convolve(
    u: Tensor, weight: Tensor, settings: LaunchSettings, bias: Tensor | None = None, grad: Tensor | None = None
) -> Tensor:
    """silu(conv(u) + bias), or without a bias the transposed convolution alone.

    With `grad`, of that result, the gradient of conv(u) + bias in its place.
    """
    from nnunetv2_dsvm.ops.triton.kernels.conv import conv_kernel

    out = torch.empty_like(u) if grad is None else grad
    volumes = u.ndim == 5
    grid, rows, constants = _launch(u, weight, _VOLUME if volumes else _FORWARD, settings)
    conv_kernel[grid](
        u, weight.contiguous(), bias, grad, out, *_sizes(u), rows,
        ACTIVATED=bias is not None, PLANES=constants["K"] if volumes else 1, **constants, num_warps=_WARPS,
    )  # fmt: skip
    return out


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
