"""Mean squared error of a linearly enlarged map to another one, without the enlarged map."""

from torch import Tensor

from nnunetv2_dsvm.distillation.precision import at_least_fp32
from nnunetv2_dsvm.distillation.resize import enlarge_and_gather, gather_linearly, spatial_size


def enlarged_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((U s - t)^2), U the linear interpolation along each axis to the teacher's size (`align_corners=False`).

    As U is a product of small matrices, one an axis, the square is multiplied out:
    |U s - t|^2 = <s, (U'U) s - 2 U't> + |t|^2. U't is the teacher brought to the student's size and has no gradient,
    and U'U acts on the student's own grid: nothing of the teacher's size is kept for the backward, or computed in it.
    In 3D, from 1/16 to 1/4, that is a 64th. Both maps are first reduced by the teacher's mean in each channel, which U
    leaves as it is, so that no large numbers cancel; of maps that agree the value is 0 up to rounding, of either sign.

    Args:
        student: (B, C, *spatial), 1 to 3 axes.
        teacher: (B, C, *spatial) of the same axes, each as long or longer; no gradient reaches it.

    Returns:
        A scalar in at least fp32, as everything is computed.
    """
    size = spatial_size(teacher)
    teacher = teacher.detach()
    mean = at_least_fp32(teacher).mean((0, *range(2, teacher.ndim)), keepdim=True)
    rest, student = teacher - mean, at_least_fp32(student) - mean
    pulled = gather_linearly(rest, spatial_size(student))
    product = (student * (enlarge_and_gather(student, size) - 2 * pulled)).sum()
    return product / rest.numel() + rest.square().mean()  # a norm over so many would lose digits on CPUs
