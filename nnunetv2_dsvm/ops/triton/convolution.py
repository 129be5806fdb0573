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
# The backward without SiLU, one kernel: 431 µs with 8 bytes a lane, 483 with 4 (32×64×64 × 1536, H200).
_PLAIN_BACKWARD = _Plan(columns=4, lane_bytes=8, programs=4)
# With a norm and ReLU before it 85 registers forward (183 with 8 bytes), 192 backward.
_NORM_FORWARD = _Plan(columns=4, lane_bytes=4, programs=12)
_NORM_BACKWARD = _Plan(columns=4, lane_bytes=4, programs=5)
# For k = 5 128 registers forward, and backward 230, with SiLU 250, so that 4 programs fit; strips of 8 pixels spill.
_LARGE_FORWARD = _Plan(columns=4, lane_bytes=4, programs=24)
_LARGE_BACKWARD = _Plan(columns=4, lane_bytes=4, programs=4)
# Volumes have k times as many taps. In 16 bit a lane takes 206 registers for all 27 of them, so that 4 programs fit,
# and spills with 8 bytes; for the sums of 9 it takes 96: 10 fit, and each program is one of three, a plane each.
_VOLUME = _Plan(columns=4, lane_bytes=4, programs=8)
_VOLUME_SUMS = _Plan(columns=4, lane_bytes=4, programs=4)


class Norm(NamedTuple):
    """Of images before the convolution, channel by channel, with ReLU after it; tensors `(C,)`, fp32."""

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float


_NO_NORM = (None,) * len(Norm._fields)


def convolution_forward(u: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, settings: LaunchSettings) -> Tensor:
    """As `FusedOperators.convolution_forward`, of images `(B, H, W, C)` or volumes `(B, D, H, W, C)`."""
    u = u.contiguous()
    out = torch.empty_like(u)
    _convolve(u, weight, bias, None, None, out, settings, ACTIVATED=silu, TRANSPOSED=False)
    return out


def convolution_backward(
    grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, own: bool, settings: LaunchSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """As `FusedOperators.convolution_backward`."""
    from nnunetv2_dsvm.ops.triton.kernels.conv_backward import conv_silu_backward_kernel, volume_weight_kernel

    grad, u, weight = grad.contiguous(), u.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    volumes = u.ndim == 5
    if not (silu or volumes):
        return plain_backward(grad, u, weight, bias, None, settings, put_off=own)[0]
    plan = _VOLUME_SUMS if volumes else _LARGE_BACKWARD if weight.shape[-1] > 3 else _BACKWARD
    grid, rows, constants = _launch(u, weight, plan, settings)
    sums = _parts(u, weight, grid, constants)
    images, depth, *sizes = _sizes(u)
    grad_v = grad if own or not silu else torch.empty_like(u)  # of silu's argument
    if volumes:
        if silu:
            _convolve(u, weight, bias, None, grad, grad_v, settings, ACTIVATED=True, TRANSPOSED=False)
        planes = grid[0], grid[1], constants["K"]
        volume_weight_kernel[planes](grad_v, u, *sums, images, depth, *sizes, rows, **constants, num_warps=_WARPS)
    else:
        conv_silu_backward_kernel[grid](
            grad, u, weight, bias, None if own else grad_v, *sums, images, *sizes, rows, **constants, num_warps=_WARPS
        )
    grad_u = torch.empty_like(u)
    _convolve(grad_v, weight, None, None, None, grad_u, settings, ACTIVATED=False, TRANSPOSED=True)
    return grad_u, *sum_rows(*sums, weight, _like_bias(weight, bias), put_off=own)


def plain_forward(u: Tensor, weight: Tensor, bias: Tensor, norm: Norm, settings: LaunchSettings) -> Tensor:
    """conv(relu(norm(u))) + bias of contiguous images."""
    out = torch.empty_like(u)
    _convolve(u, weight, bias, norm, None, out, settings, ACTIVATED=False, TRANSPOSED=False)
    return out


def plain_backward(
    grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm | None, settings: LaunchSettings,
    *, put_off: bool = False,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor] | None]:  # fmt: skip
    """The gradients of contiguous images, weight and bias; nothing follows the convolution.

    With `norm` the first is that of norm(u), and besides them its product with u - mean and itself are given, summed
    over the pixels, `(C,)`.
    """
    from nnunetv2_dsvm.ops.triton.kernels.conv_backward import conv_backward_kernel

    plan = _PLAIN_BACKWARD if norm is None else _NORM_BACKWARD
    grid, rows, constants = _launch(u, weight, _LARGE_BACKWARD if weight.shape[-1] > 3 else plan, settings)
    images, _, *sizes = _sizes(u)
    sums = _parts(u, weight, grid, constants)
    of_norm = None if norm is None else (torch.empty_like(sums[1]), torch.empty_like(sums[1]))
    grad_u = torch.empty_like(u)
    conv_backward_kernel[grid](
        grad.contiguous(), u, weight.contiguous(), *(norm or _NO_NORM), grad_u, *sums,
        *(of_norm or (None, None)), images, *sizes, rows, **constants, num_warps=_WARPS,
    )  # fmt: skip
    grads = grad_u, *sum_rows(*sums, weight, _like_bias(weight, bias), put_off=put_off)
    return grads, None if of_norm is None else sum_rows(*of_norm, weight[:, 0, 0, 0], weight[:, 0, 0, 0], put_off=False)


def _parts(u: Tensor, weight: Tensor, grid: tuple[int, int], constants: dict[str, int]) -> tuple[Tensor, Tensor]:
    """New tensors for the sums of each program of a grid: of weight and bias."""
    channels = u.shape[-1]
    programs = grid[0] // math.ceil(channels / constants["BLOCK_C"]) * grid[1]
    return torch.empty(programs, *weight.shape, device=u.device), torch.empty(programs, channels, device=u.device)


def _like_bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    return weight.new_empty(len(weight)) if bias is None else bias


def _convolve(
    u: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm | None, grad: Tensor | None, out: Tensor,
    settings: LaunchSettings, **constants: bool,
) -> None:  # fmt: skip
    """Launches `conv_kernel`, whose result is written to `out`."""
    from nnunetv2_dsvm.ops.triton.kernels.conv import conv_kernel

    volumes = u.ndim == 5
    plan = _FORWARD if norm is None else _NORM_FORWARD
    plan = _VOLUME if volumes else _LARGE_FORWARD if weight.shape[-1] > 3 else plan
    grid, rows, of_plan = _launch(u, weight, plan, settings)
    conv_kernel[grid](
        u, weight.contiguous(), None if bias is None else bias.contiguous(), *(norm or _NO_NORM), grad, out,
        *_sizes(u), rows,
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
