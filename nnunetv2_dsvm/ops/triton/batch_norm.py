"""Batch normalisation and ReLU of images, which the depthwise convolution after them applies as it reads: launches."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.triton.convolution import Norm, plain_backward, plain_forward
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings
from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2

_STATISTICS_TILE = 2048  # elements, rows x channels
_GRADIENT_TILE = 4096
_MAX_CHANNELS = 128  # of a tile
_PROGRAMS_PER_PROCESSOR = 8  # of the statistics, each of which leaves sums


def _blocks(channels: int, tile: int) -> dict[str, int]:
    block_c = min(_MAX_CHANNELS, next_power_of_2(channels))
    return {"BLOCK_R": tile // block_c, "BLOCK_C": block_c}


def batch_statistics(u: Tensor, settings: LaunchSettings) -> tuple[Tensor, Tensor]:
    """As `FusedOperators.batch_statistics`."""
    from nnunetv2_dsvm.ops.triton.kernels.batch_norm import mean_and_variance_kernel, statistics_kernel

    u = u.contiguous()
    channels = u.shape[-1]
    rows = u.numel() // channels
    blocks = _blocks(channels, _STATISTICS_TILE)
    across = math.ceil(channels / blocks["BLOCK_C"])
    programs = max(1, settings.processors_of(u.device) * _PROGRAMS_PER_PROCESSOR // across)
    rows_each = math.ceil(rows / programs / blocks["BLOCK_R"]) * blocks["BLOCK_R"]
    programs = math.ceil(rows / rows_each)
    parts = [torch.empty(programs, channels, device=u.device) for _ in range(2)]
    statistics_kernel[(programs, across)](u, *parts, rows, channels, rows_each, **blocks)
    mean, var = (torch.empty(channels, device=u.device) for _ in range(2))
    block_c = min(32, next_power_of_2(channels))
    mean_and_variance_kernel[(math.ceil(channels / block_c),)](
        u, *parts, mean, var, programs, rows, channels, BLOCK_R=min(128, next_power_of_2(programs)), BLOCK_C=block_c
    )
    return mean, var


def _norm(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Norm:
    """Of tensors that the kernels read one number after the other."""
    return Norm(mean.contiguous(), var.contiguous(), weight.contiguous(), bias.contiguous(), eps)


def normalised_forward(
    u: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
    bias: Tensor, settings: LaunchSettings,
) -> Tensor:  # fmt: skip
    """As `FusedOperators.normalised_convolution_forward`."""
    norm = _norm(mean, var, norm_weight, norm_bias, eps)
    return plain_forward(u.contiguous(), weight, bias, norm, settings)


def normalised_backward(
    grad: Tensor, u: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
    weight: Tensor, bias: Tensor, batch: bool, settings: LaunchSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `FusedOperators.normalised_convolution_backward`."""
    from nnunetv2_dsvm.ops.triton.kernels.batch_norm import norm_gradient_kernel

    u, norm = u.contiguous(), _norm(mean, var, norm_weight, norm_bias, eps)
    (grad_u, grad_weight, grad_bias), sums = plain_backward(grad, u, weight, bias, norm, settings)
    assert sums is not None
    dot, grad_norm_bias = sums
    grad_norm_weight = torch.empty_like(norm.weight)
    channels = u.shape[-1]
    rows, blocks = u.numel() // channels, _blocks(channels, _GRADIENT_TILE)
    norm_gradient_kernel[math.ceil(rows / blocks["BLOCK_R"]), math.ceil(channels / blocks["BLOCK_C"])](
        grad_u, u, *norm, grad_norm_bias, dot, grad_norm_weight, rows, channels, BATCH=batch, **blocks
    )
    return grad_u, grad_norm_weight, grad_norm_bias, grad_weight, grad_bias
