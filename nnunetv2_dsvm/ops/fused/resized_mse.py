"""Mean squared error of a bilinearly enlarged map to another one, as one differentiable operator on GPUs.

The enlarged map exists only in registers, pixel by pixel; the gradient's kernel makes it again instead of keeping it.
"""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import common_backend, fused_operators, required_backend

_MAX_SCALE = 16  # per axis; the kernel's code grows with it
_MAX_ELEMENTS = 2**31  # of the student, and of one image of the teacher: the kernel counts in 32 bits


def supports(student: Tensor, teacher: Tensor) -> bool:
    """Whether `resized_mse` takes these maps `(B, C, h, w)` and `(B, C, H, W)`.

    They have two spatial axes and are on one GPU, of fp32 or 16 bit; H / h and W / w are whole numbers from 1 to 16.
    """
    if student.ndim != 4 or not 0 < student.numel() < _MAX_ELEMENTS or teacher[0].numel() >= _MAX_ELEMENTS:
        return False
    scales_fit = all(
        large % small == 0 and small <= large <= _MAX_SCALE * small
        for small, large in zip(student.shape[2:], teacher.shape[2:], strict=True)
    )
    return scales_fit and common_backend(student, teacher) is not None


def resized_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((resize(student) - teacher)^2), the resize bilinear to the teacher's size (`align_corners=False`).

    For maps that `supports` takes. Computed in fp32, the same bits in every run. Maps in channels-last memory are read
    in place, others are copied to it.

    Args:
        student: `(B, C, h, w)`, fp32 or 16 bit.
        teacher: `(B, C, H, W)`, fp32 or 16 bit; it gets no gradient.

    Returns:
        A scalar, fp32.
    """
    return _resized_mse(student, teacher, required_backend(student, teacher))


@torch.library.custom_op("nnunetv2_dsvm::resized_mse", mutates_args=())
@on_its_device
def _resized_mse(student: Tensor, teacher: Tensor, backend: str) -> Tensor:
    return fused_operators(backend).resized_mse(student, teacher, None)


@torch.library.custom_op("nnunetv2_dsvm::resized_mse_backward", mutates_args=())
@on_its_device
def _resized_mse_backward(upstream: Tensor, student: Tensor, teacher: Tensor, backend: str) -> Tensor:
    return fused_operators(backend).resized_mse(student, teacher, upstream)


@_resized_mse.register_fake
def _(student, teacher, backend):
    return student.new_empty((), dtype=torch.float32)


@_resized_mse_backward.register_fake
def _(upstream, student, teacher, backend):
    return torch.empty_like(student, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output) -> None:
    *maps, ctx.backend = inputs
    ctx.save_for_backward(*maps)


def _backward(ctx, upstream: Tensor):
    return _resized_mse_backward(upstream, *ctx.saved_tensors, ctx.backend), None, None


_resized_mse.register_autograd(_backward, setup_context=_setup_context)
