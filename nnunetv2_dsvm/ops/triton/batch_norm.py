"""Batch normalisation and ReLU of images, which the depthwise convolution after them applies as it reads: launches."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.triton.convolution import NormBefore, plain_backward, plain_forward
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings
from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2
from nnunetv2_dsvm.ops.triton.sums import sum_rows

_TILE = 2048  # elements, rows x channels
_PROGRAMS_PER_PROCESSOR = 8  # of the statistics, each of which leaves sums


def _blocks(channels: int) -> dict[str, int]:
    block_c = min(128, next_power_of_2(channels))
    return {"BLOCK_R": _TILE // block_c, "BLOCK_C": block_c}


def batch_statistics(u: Tensor, settings: LaunchSettings) -> tuple[Tensor, Tensor]:
    """As `FusedOperators.batch_statistics`."""
    from nnunetv2_dsvm.ops.triton.kernels.batch_norm import statistics_kernel

    rows = u.contiguous().view(-1, u.shape[-1])
    count, channels = rows.shape
    blocks = _blocks(channels)
    across = math.ceil(channels / blocks["BLOCK_C"])
    programs = math.ceil(settings.processors_of(u.device) * _PROGRAMS_PER_PROCESSOR / across)
    rows_each = math.ceil(count / max(1, programs) / blocks["BLOCK_R"]) * blocks["BLOCK_R"]
    programs = math.ceil(count / rows_each)
    parts = [torch.empty(programs, channels, device=u.device) for _ in range(2)]
    statistics_kernel[(programs, across)](rows, *parts, count, channels, rows_each, **blocks)
    origin = rows[0].float()
    mean, square = (t / count for t in sum_rows(parts[0], parts[1], origin, origin, put_off=False))
    return origin + mean, torch.addcmul(square, mean, mean, value=-1)


def normalised_forward(
    u: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
    bias: Tensor, settings: LaunchSettings,
) -> Tensor:  # fmt: skip
    """As `FusedOperators.normalised_convolution_forward`."""
    scale = norm_weight * torch.rsqrt(var + eps)
    norm = NormBefore(scale, torch.addcmul(norm_bias, mean, scale, value=-1), mean)
    return plain_forward(u.contiguous(), weight, bias, norm, settings)


def normalised_backward(
    grad: Tensor, u: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
    weight: Tensor, bias: Tensor, batch: bool, settings: LaunchSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `FusedOperators.normalised_convolution_backward`."""
    from nnunetv2_dsvm.ops.triton.kernels.batch_norm import input_gradient_kernel

    u = u.contiguous()
    rstd = torch.rsqrt(var + eps)
    scale = norm_weight * rstd
    norm = NormBefore(scale, torch.addcmul(norm_bias, mean, scale, value=-1), mean)
    (grad_u, grad_weight, grad_bias), sums = plain_backward(grad, u, weight, bias, norm, settings)
    assert sums is not None
    grad_norm_weight, grad_norm_bias = sums[0] * rstd, sums[1]
    if batch:  # u changes the mean and the variance as well
        channels = u.shape[-1]
        rows = u.numel() // channels
        slope = grad_norm_weight * rstd * scale / -rows
        blocks = _blocks(channels)
        grid = math.ceil(rows / blocks["BLOCK_R"]), math.ceil(channels / blocks["BLOCK_C"])
        input_gradient_kernel[grid](
            grad_u, u, mean, scale, slope, grad_norm_bias * scale / -rows, rows, channels, **blocks
        )
    else:
        grad_u *= scale
    return grad_u, grad_norm_weight, grad_norm_bias, grad_weight, grad_bias
