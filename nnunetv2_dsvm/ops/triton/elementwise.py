"""Launches around the scan: softplus before it, the sum over directions after it, and that with the residual stream."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_inputs import token_strides
from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2


def delta_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of delta in memory: it is positive and at most of order 100, where float16 is eight times finer than bfloat16."""
    return torch.float32 if dtype == torch.float32 else torch.float16


def softplus(dt: Tensor, bias: Tensor, delta: Tensor) -> Tensor:
    """softplus(dt + bias) into `delta`, both `(batch, L, K, channels)`, contiguous but for the stride over tokens."""
    from nnunetv2_dsvm.ops.triton.kernels.elementwise import softplus_kernel

    batch, length, directions, channels = dt.shape
    rows, block_r, block_d = batch * length, 32, min(64, next_power_of_2(channels))
    grid = (math.ceil(rows / block_r), math.ceil(channels / block_d), directions)
    softplus_kernel[grid](
        dt, bias, delta, rows, channels, *token_strides(dt, delta), BLOCK_R=block_r, BLOCK_D=block_d, num_warps=2
    )
    return delta


def merge(
    parts: Tensor, skip: Tensor, scale: Tensor, dtype: torch.dtype, other: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`parts` `(batch, L, K, channels)` plus skip * scale, `(K, channels)`, summed over K, in `dtype`.

    The second result is the sum over some tokens each of skip * other, `(parts, channels)`.
    """
    from nnunetv2_dsvm.ops.triton.kernels.elementwise import merge_kernel

    batch, length, directions, channels = parts.shape
    rows, block_r, block_d = batch * length, 16, min(64, next_power_of_2(channels))
    grid = (math.ceil(rows / block_r), math.ceil(channels / block_d))
    out = torch.empty(batch, length, channels, dtype=dtype, device=skip.device)
    dot = None if other is None else torch.empty(grid[0], channels, dtype=torch.float32, device=skip.device)
    merge_kernel[grid](
        parts, skip, scale.contiguous(), other, out, dot, rows, channels, *token_strides(skip),
        DOT=other is not None, K=directions, BLOCK_R=block_r, BLOCK_D=block_d,
    )  # fmt: skip
    return out, dot


def scaled_sum(x: Tensor | None, branch: Tensor, scale: Tensor) -> Tensor:
    """As `FusedOperators.scaled_sum`."""
    from nnunetv2_dsvm.ops.triton.kernels.elementwise import scaled_sum_kernel

    branch = branch.contiguous()
    out = torch.empty_like(branch)
    elements, block = branch[0].numel(), 2048
    scaled_sum_kernel[(math.ceil(elements / block), len(branch))](
        None if x is None else x.contiguous(), branch, scale.contiguous(), out, elements, BLOCK=block
    )
    return out
