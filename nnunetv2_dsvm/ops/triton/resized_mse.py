"""Launch of the kernel of a resized map's squared error, and of its gradient's."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2

_BLOCK_P = 16  # student's pixels of a program ...
_MAX_BLOCK_C = 32  # ... and their channels: 4 values a thread


def resized_mse(student: Tensor, teacher: Tensor, upstream: Tensor | None) -> Tensor:
    """As `FusedOperators.resized_mse`."""
    from nnunetv2_dsvm.ops.triton.kernels.resized_mse import resized_mse_kernel

    student, teacher = (t.contiguous(memory_format=torch.channels_last) for t in (student, teacher))
    batch, channels, height, width = student.shape
    pixels = batch * height * width
    block_c = min(_MAX_BLOCK_C, next_power_of_2(channels))
    grid = math.ceil(pixels / _BLOCK_P), math.ceil(channels / block_c)
    if upstream is None:
        out = torch.empty(math.prod(grid), dtype=torch.float32, device=student.device)
    else:
        out = torch.empty_like(student, memory_format=torch.channels_last)
    resized_mse_kernel[grid](
        student, teacher, upstream, out, pixels, height, width, channels, 1.0 / teacher.numel(),
        SY=teacher.shape[2] // height, SX=teacher.shape[3] // width, GRAD=upstream is not None,
        BLOCK_P=_BLOCK_P, BLOCK_C=block_c,
    )  # fmt: skip
    return out.sum() if upstream is None else out
