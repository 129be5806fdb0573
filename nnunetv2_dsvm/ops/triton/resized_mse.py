"""Launches of the kernel of resized maps' squared errors and their gradients."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2

TILE = 1024  # pixels x columns x channels of a program: 8 values a thread, the widest load of 16 bit
_MAX_BLOCK_C = 32
MAX_STRIP = 8  # rows that a program walks down: of so many, and one above, it reads the teacher
PROGRAMS = 768  # at least, as long as that costs no more than shorter strips


def resized_mse(student: Tensor, teacher: Tensor, upstream: Tensor | None) -> Tensor:
    """As `FusedOperators.resized_mse`."""
    scale = 1.0 / teacher.numel()
    if upstream is None:
        values = torch.empty(_plan(student, teacher, False).grid, dtype=torch.float32, device=student.device)
        _launch(student, teacher, scale, values=values)
        return values.sum()
    gradient = torch.empty_like(student, memory_format=torch.channels_last)
    _launch(student, teacher, scale, upstream=upstream, gradient=gradient)
    return gradient


def resized_mse_ahead(
    students: Sequence[Tensor], teachers: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """As `FusedOperators.resized_mse_ahead`."""
    grids = [_plan(s, t, bool(gradients)).grid for s, t in zip(students, teachers, strict=True)]
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
    """How programs share a pair: columns of `strip` rows, of the student's and at each of them the teacher's, channels.

    Attributes:
        columns: of the student's, of all images and strips.
        grid: programs along columns, and along channels.
        tile: of a program: BLOCK_P, BLOCK_K and BLOCK_C.
    """

    columns: int
    strip: int
    grid: tuple[int, int]
    tile: tuple[int, int, int]


def _plan(student: Tensor, teacher: Tensor, grad: bool) -> _Plan:
    batch, channels, height, width = student.shape
    scale = teacher.shape[3] // width
    block_k = next_power_of_2(2 * scale - scale % 2 if grad else scale)
    block_c = min(_MAX_BLOCK_C, next_power_of_2(channels))
    of_channels = math.ceil(channels / block_c)
    block_p = max(1, TILE // (block_k * block_c))
    strip = min(MAX_STRIP, next_power_of_2(height))
    while strip > 1 and batch * width * math.ceil(height / strip) * of_channels < PROGRAMS * block_p:
        strip //= 2
    columns = batch * width * math.ceil(height / strip)
    block_p = min(block_p, next_power_of_2(columns))
    return _Plan(columns, strip, (math.ceil(columns / block_p), of_channels), (block_p, block_k, block_c))


def _launch(
    student: Tensor, teacher: Tensor, scale: float, upstream: Tensor | None = None, gradient: Tensor | None = None,
    values: Tensor | None = None, sums: Tensor | None = None,
) -> None:  # fmt: skip
    """As `resized_mse_kernel`; parts in rows of any stride."""
    from nnunetv2_dsvm.ops.triton.kernels.resized_mse import resized_mse_kernel

    student, teacher = (t.contiguous(memory_format=torch.channels_last) for t in (student, teacher))
    channels, height, width = student.shape[1:]
    plan = _plan(student, teacher, gradient is not None)
    block_p, block_k, block_c = plan.tile
    resized_mse_kernel[plan.grid](
        student, teacher, upstream, gradient, values, sums, plan.columns, height, width, channels, plan.strip, scale,
        0 if values is None else values.stride(0), 0 if sums is None else sums.stride(0),
        SY=teacher.shape[2] // height, SX=teacher.shape[3] // width,
        BLOCK_P=block_p, BLOCK_K=block_k, BLOCK_C=block_c,
    )  # fmt: skip
