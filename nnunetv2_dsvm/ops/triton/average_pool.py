"""Launches of the kernel of means over windows, and of its gradient's."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2

_TILE = 1024  # pixels x channels of a program: 8 values a thread, the widest load of 16 bit
_MAX_BLOCK_C = 32


def average_pool(features: Tensor, window: Sequence[int]) -> Tensor:
    """As `FusedOperators.average_pool`."""
    means = _empty(features, features.shape[2] // window[0], features.shape[3] // window[1])
    _launch(features.contiguous(memory_format=torch.channels_last), means, window, backward=False)
    return means


def average_pool_backward(grad: Tensor, window: Sequence[int]) -> Tensor:
    """As `FusedOperators.average_pool_backward`."""
    grad_features = _empty(grad, grad.shape[2] * window[0], grad.shape[3] * window[1])
    _launch(grad_features, grad.contiguous(memory_format=torch.channels_last), window, backward=True)
    return grad_features


def _empty(like: Tensor, height: int, width: int) -> Tensor:
    shape = (*like.shape[:2], height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _launch(fine: Tensor, coarse: Tensor, window: Sequence[int], backward: bool) -> None:
    from nnunetv2_dsvm.ops.triton.kernels.average_pool import average_pool_kernel

    batch, channels, height, width = coarse.shape
    pixels = batch * height * width
    block_c = min(_MAX_BLOCK_C, next_power_of_2(channels))
    block_p = min(_TILE // block_c, next_power_of_2(pixels))
    average_pool_kernel[(math.ceil(pixels / block_p), math.ceil(channels / block_c))](
        fine, coarse, pixels, width, channels,
        SY=window[0], SX=window[1], BACKWARD=backward, BLOCK_P=block_p, BLOCK_C=block_c,
    )  # fmt: skip
