"""Launches of the kernel of resized maps' squared errors and their gradients."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2

_BLOCK_P = 16  # student's pixels of a block ...
_MAX_BLOCK_C = 32  # ... and their channels: with two warps 8 values a thread, the widest load of 16 bit
_WARPS = 2
PROGRAMS = 1848  # at most, and each goes from block to block: 14 on each of a Hopper GPU's multiprocessors


def resized_mse(student: Tensor, teacher: Tensor, upstream: Tensor | None) -> Tensor:
    """As `FusedOperators.resized_mse`."""
    scale = 1.0 / teacher.numel()
    if upstream is None:
        values = torch.empty(_plan(student).grid, dtype=torch.float32, device=student.device)
        _launch(student, teacher, scale, values=values)
        return values.sum()
    gradient = torch.empty_like(student, memory_format=torch.channels_last)
    _launch(student, teacher, scale, upstream=upstream, gradient=gradient)
    return gradient


def resized_mse_ahead(
    students: Sequence[Tensor], teachers: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """As `FusedOperators.resized_mse_ahead`."""
    grids = [_plan(student).grid for student in students]
    rows, widths = max(programs for programs, _ in grids), [programs for _, programs in grids]
    channels = [s.shape[1] for s in students] if gradients else []
    # Launches of fewer programs leave rows as they are. Rows of whole loads.
    parts = torch.zeros(rows, math.ceil((sum(channels) + sum(widths)) / 4) * 4, device=students[0].device)
    sums, values = parts[:, : sum(channels)], parts[:, sum(channels) :]
    of_sums, of_values = sums.split(channels, 1), values[:, : sum(widths)].split(widths, 1)
    for i, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        scale = 1.0 / (teacher.numel() * len(students))
        if gradients:
            _launch(student, teacher, scale, gradient=gradients[i], values=of_values[i], sums=of_sums[i])
        else:
            _launch(student, teacher, scale, values=of_values[i])
    return values.sum(), sums.sum(0)


class _Plan(NamedTuple):
    """How programs share a pair's pixels.

    Attributes:
        grid: programs along pixels, and along channels.
        block_c: channels of a program.
    """

    grid: tuple[int, int]
    block_c: int


def _plan(student: Tensor) -> _Plan:
    batch, channels, height, width = student.shape
    block_c = min(_MAX_BLOCK_C, next_power_of_2(channels))
    of_channels = math.ceil(channels / block_c)
    blocks = math.ceil(batch * height * width / _BLOCK_P)
    return _Plan((min(blocks, math.ceil(PROGRAMS / of_channels)), of_channels), block_c)


def _launch(
    student: Tensor, teacher: Tensor, scale: float, upstream: Tensor | None = None, gradient: Tensor | None = None,
    values: Tensor | None = None, sums: Tensor | None = None,
) -> None:  # fmt: skip
    """As `resized_mse_kernel`; parts in rows of any stride."""
    from nnunetv2_dsvm.ops.triton.kernels.resized_mse import resized_mse_kernel

    student, teacher = (t.contiguous(memory_format=torch.channels_last) for t in (student, teacher))
    channels, height, width = student.shape[1:]
    plan = _plan(student)
    resized_mse_kernel[plan.grid](
        student, teacher, upstream, gradient, values, sums, student.numel() // channels, height, width, channels, scale,
        0 if values is None else values.stride(0), 0 if sums is None else sums.stride(0),
        SY=teacher.shape[2] // height, SX=teacher.shape[3] // width,
        BLOCK_P=_BLOCK_P, BLOCK_C=plan.block_c, num_warps=_WARPS,
    )  # fmt: skip
