"""Mean squared error of linearly enlarged maps to another one, without the enlarged maps."""

from torch import Tensor

from nnunetv2_dsvm.distillation.precision import at_least_fp32
from nnunetv2_dsvm.distillation.resize import enlarge_and_gather, gather_linearly, spatial_size


class EnlargedMSE:
    """mean((U s - t)^2) of any students s, U the linear interpolation along each axis to t's size (no aligned corners).

    As U is a product of small matrices, one an axis, the square is multiplied out:
    |U s - t|^2 = <s, (U'U) s - 2 U't> + |t|^2. U't is the teacher brought to the student's size and has no gradient,
    and U'U acts on the student's own grid: nothing of the teacher's size is kept for the backward, or computed in it.
    In 3D, from 1/16 to 1/4, that is a 64th. Both maps are first reduced by the teacher's mean in each channel, which U
    leaves as it is, so that no large numbers cancel; of maps that agree the value is 0 up to rounding, of either sign.
    The reduced teacher, its mean and its square are computed for the first student and kept for the others.

    Args:
        teacher: t, (B, C, *spatial), 1 to 3 axes; no gradient reaches it.
    """

    def __init__(self, teacher: Tensor) -> None:
        self._teacher = teacher.detach()
        self._centred: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, student: Tensor) -> Tensor:
        """The error of s, (B, C, *spatial) of the same axes, each as long or shorter: a scalar in at least fp32."""
        if self._centred is None:
            mean = at_least_fp32(self._teacher).mean((0, *range(2, self._teacher.ndim)), keepdim=True)
            rest = self._teacher - mean
            self._centred = mean, rest, rest.square().mean()  # a norm over so many would lose digits on CPUs
        mean, rest, square = self._centred
        student = at_least_fp32(student) - mean
        pulled = gather_linearly(rest, spatial_size(student))
        product = (student * (enlarge_and_gather(student, spatial_size(rest)) - 2 * pulled)).sum()
        return product / rest.numel() + square
