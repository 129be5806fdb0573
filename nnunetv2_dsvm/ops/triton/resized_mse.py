"""Launches of the kernel of resized maps' squared errors and their gradients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2

_TILE = 1024  # pixels x columns x channels of a program: 8 values a thread, the widest load of 16 bit
_MAX_BLOCK_C = 32
_MAX_PROGRAMS = 1024  # along pixels, each with a part of the sums; with those of channels more than a GPU runs at once


def resized_mse(student: Tensor, teacher: Tensor, upstream: Tensor | None) -> Tensor:
    """As `FusedOperators.resized_mse`."""
    scale = 1.0 / teacher.numel()
    if upstream is None:
        values = torch.empty(_programs(student, teacher, False), dtype=torch.float32, device=student.device)
        _launch(student, teacher, scale, values=values)
        return values.sum()
    gradient = torch.empty_like(student, memory_format=torch.channels_last)
    _launch(student, teacher, scale, upstream=upstream, gradient=gradient)
    return gradient


def resized_mse_ahead(
    students: Sequence[Tensor], teachers: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """As `FusedOperators.resized_mse_ahead`."""
    programs = [_programs(s, t, bool(gradients)) for s, t in zip(students, teachers, strict=True)]
    rows, widths = max(n for n, _ in programs), [width for _, width in programs]
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


def _blocks(student: Tensor, teacher: Tensor, grad: bool) -> tuple[int, int, int]:
    """Pixels, columns and channels of a program's tile."""
    columns = teacher.shape[3] // student.shape[3]
    block_k = next_power_of_2(2 * columns - columns % 2 if grad else columns)
    block_c = min(_MAX_BLOCK_C, next_power_of_2(student.shape[1]))
    pixels = student.numel() // student.shape[1]
    return min(max(1, _TILE // (block_k * block_c)), next_power_of_2(pixels)), block_k, block_c


def _programs(student: Tensor, teacher: Tensor, grad: bool) -> tuple[int, int]:
    """Along pixels and along channels."""
    block_p, _, block_c = _blocks(student, teacher, grad)
    channels = student.shape[1]
    return min(_MAX_PROGRAMS, math.ceil(student.numel() // channels / block_p)), math.ceil(channels / block_c)


def _launch(
    student: Tensor, teacher: Tensor, scale: float, upstream: Tensor | None = None, gradient: Tensor | None = None,
    values: Tensor | None = None, sums: Tensor | None = None,
) -> None:  # fmt: skip
    """As `resized_mse_kernel`; parts in rows of any stride."""
    from nnunetv2_dsvm.ops.triton.kernels.resized_mse import resized_mse_kernel

    student, teacher = (t.contiguous(memory_format=torch.channels_last) for t in (student, teacher))
    batch, channels, height, width = student.shape
    block_p, block_k, block_c = _blocks(student, teacher, gradient is not None)
    resized_mse_kernel[_programs(student, teacher, gradient is not None)](
        student, teacher, upstream, gradient, values, sums, batch * height * width, height, width, channels, scale,
        0 if values is None else values.stride(0), 0 if sums is None else sums.stride(0),
        SY=teacher.shape[2] // height, SX=teacher.shape[3] // width,
        BLOCK_P=block_p, BLOCK_K=block_k, BLOCK_C=block_c,
    )  # fmt: skip
