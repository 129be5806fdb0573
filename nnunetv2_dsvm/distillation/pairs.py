"""Pairs of a student's and a teacher's features, and the mean of their squared errors as one operator."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.distillation.features import Convolution, product_dtype
from nnunetv2_dsvm.distillation.precision import autocast_off
from nnunetv2_dsvm.ops.dispatch import fused_backend
from nnunetv2_dsvm.ops.fused.projected_mse import ProjectedPair, projected_mse, supports


class Pair(NamedTuple):
    """What is compared with what.

    Attributes:
        projection: a `channel_projection` from the student's channels to the teacher's.
        student: `(B, C, *spatial)`, of the teacher's size or to be enlarged to it.
        teacher: `(B, C', *spatial)`.
    """

    projection: nn.Module
    student: Tensor
    teacher: Tensor


def joint_mse(pairs: Sequence[Pair]) -> Tensor | None:
    """The mean of the pairs' mean squared errors, a scalar in fp32, where `projected_mse` takes all; elsewhere None.

    No gradient reaches the teachers.
    """
    if torch.compiler.is_compiling() or not all(_may_be_taken(pair) for pair in pairs):
        return None
    projected = []
    for projection, student, teacher in pairs:
        convolution = cast(Convolution, projection)
        student = student.to(product_dtype(convolution, student))
        projected.append(ProjectedPair(student, convolution.weight, cast(Tensor, convolution.bias), teacher.detach()))
    if not supports(projected):
        return None
    with autocast_off(projected[0].student.device.type):
        return projected_mse(projected)


def _may_be_taken(pair: Pair) -> bool:
    """Without a look at the sizes."""
    projection, student, _ = pair
    return (
        isinstance(projection, nn.Conv2d)
        and fused_backend(student.device, product_dtype(projection, student)) is not None
    )
