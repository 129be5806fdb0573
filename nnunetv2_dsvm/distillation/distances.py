"""The distance D between a student's and a teacher's feature map: mean squared error or Kullback-Leibler divergence."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from nnunetv2_dsvm.distillation.enlarged_mse import EnlargedMSE
from nnunetv2_dsvm.distillation.gradients_ahead import with_gradients_ahead
from nnunetv2_dsvm.distillation.precision import at_least_fp32, autocast_off
from nnunetv2_dsvm.distillation.resize import resize_linearly, spatial_size
from nnunetv2_dsvm.ops.fused.resized_mse import resized_mse, supports

DistanceKind = Literal["mse", "kl"]


def weighted_mean(per_pixel: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """The mean of (B, *spatial) over batch and pixels, weighted by (B, 1, *spatial); 0 where every weight is 0."""
    if weight is None:
        return per_pixel.mean()
    # Divided before the gradient passes: where every weight is 0, 1/tiny times a gradient would overflow.
    share = weight / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
    return (per_pixel * share.squeeze(1)).sum()


def mean_squared_error(
    student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over all elements of (student - teacher)^2. Both (B, C, *spatial), weight (B, 1, *spatial) or None."""
    if weight is None and torch.compiler.is_compiling():
        # What torch.compile believes of the memory order of mse_loss's gradient is wrong for maps of unlike orders.
        return (student - teacher).square().mean()
    if weight is None:
        return F.mse_loss(student, teacher)
    return weighted_mean((student - teacher).square().mean(dim=1), weight)


def kl_divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)): softmax over channels, mean over batch and pixels.

    T^2 keeps the size of the gradient independent of the temperature (Hinton et al., arXiv 1503.02531).

    Args:
        student: (B, C, *spatial).
        teacher: (B, C, *spatial).
        temperature: T > 0.
        weight: (B, 1, *spatial), how much each pixel counts in the mean; None: all alike.

    Returns:
        A scalar in nats, >= 0 up to rounding.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    per_pixel = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
    return temperature**2 * weighted_mean(per_pixel, weight)


def standardise_over_channels(features: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Zero mean and unit variance over the channels of each pixel of (B, C, *spatial) (population variance + eps)."""
    variance, mean = torch.var_mean(features, dim=1, correction=0, keepdim=True)
    return (features - mean) * torch.rsqrt(variance + eps)


@dataclass(frozen=True)
class FeatureDistance:
    """D(student, sg[teacher]) of the two distillation terms.

    The paper's equations use the mean squared error, the default. KL is the second choice; the temperature's default
    and the standardisation are ours. Without the stop-gradient sg the teacher is pulled towards the student too.

    Args:
        kind: "mse" or "kl".
        temperature: T of the KL divergence; unused by "mse".
        standardise: standardise both feature maps over channels first, so that only their pattern counts.
        stop_gradient: keep the gradient from the teacher.
    """

    kind: DistanceKind = "mse"
    temperature: float = 4.0
    standardise: bool = False
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(DistanceKind):
            raise ValueError(f"unknown distance {self.kind!r}: choose one of {', '.join(get_args(DistanceKind))}")
        if not self.temperature > 0:
            raise ValueError(f"the temperature of the KL divergence must be above 0, got {self.temperature}")

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The distance of a map from a teacher's, the student resized to the teacher's size, linearly along each axis.

        Computed in at least fp32 whatever the autocast. On GPUs the unweighted mean squared error of 2D maps at
        whole-number scales is one operator, see `resized_mse`; that of 1D and 3D maps enlarges nothing, see
        `EnlargedMSE`, and only its gradient is kept for the backward, see `with_gradients_ahead`.

        Args:
            student: (B, C, *spatial), spatial of any size.
            teacher: (B, C, *spatial); no gradient reaches it with `stop_gradient`.
            weight: (B, 1, *spatial), how much each pixel counts (see `pixel_weight`); None: all alike.

        Returns:
            A scalar, at least fp32.

        Raises:
            ValueError: the batch, the channels or the number of axes differ (some would broadcast silently otherwise).
        """
        return self.to(teacher, weight)(student)

    def to(self, teacher: torch.Tensor, weight: torch.Tensor | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
        """The distance from one teacher as a function of the student; several students share what it takes of it."""
        if self.stop_gradient:
            teacher = teacher.detach()
        return partial(self._of_pair, teacher=teacher, weight=weight, enlarged=EnlargedMSE(teacher))

    def _of_pair(
        self, student: torch.Tensor, *, teacher: torch.Tensor, weight: torch.Tensor | None, enlarged: EnlargedMSE
    ) -> torch.Tensor:
        if student.shape[:2] != teacher.shape[:2] or student.ndim != teacher.ndim:
            raise ValueError(
                f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one batch size, "
                "one number of channels and one number of axes"
            )
        if self.is_plain_mse(weight) and supports(student, teacher):
            return resized_mse(student, teacher)
        with autocast_off(student.device.type):
            if self.is_plain_mse(weight) and self._enlarges(student, teacher):
                return with_gradients_ahead(enlarged, student)
            compare = partial(self._compare, weight=weight)
            if student.ndim == 4:
                return compare(student, teacher)
            return with_gradients_ahead(compare, student, teacher)

    def _compare(self, student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        student, teacher = at_least_fp32(student), at_least_fp32(teacher)
        if student.shape != teacher.shape:
            student = resize_linearly(student, spatial_size(teacher))
        if self.standardise:
            student, teacher = standardise_over_channels(student), standardise_over_channels(teacher)
        if self.kind == "kl":
            return kl_divergence(student, teacher, self.temperature, weight)
        return mean_squared_error(student, teacher, weight)

    @staticmethod
    def _enlarges(student: torch.Tensor, teacher: torch.Tensor) -> bool:
        sizes = zip(spatial_size(student), spatial_size(teacher), strict=True)
        return student.ndim != 4 and student.shape != teacher.shape and all(small <= large for small, large in sizes)

    def is_plain_mse(self, weight: torch.Tensor | None = None) -> bool:
        """Whether it is the mean squared error of the maps as they are, with no gradient to the teacher."""
        return self.kind == "mse" and weight is None and not self.standardise and self.stop_gradient
