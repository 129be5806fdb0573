"""Mean squared error of a bilinearly enlarged map to another one, as one differentiable operator on GPUs.

The enlarged map exists only in registers, pixel by pixel; the gradient's kernel makes it again instead of keeping it.
"""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.layer_norm import fused

_MAX_SCALE = 16  # per axis; the kernel's code grows with it
_MAX_ELEMENTS = 2**31  # of the student, and of one image of the teacher: the kernel counts in 32 bits
_BLOCK_P = 16  # student's pixels of a program ...
_MAX_BLOCK_C = 32  # ... and their channels: 4 values a thread


def supports(student: Tensor, teacher: Tensor) -> bool:
    """Whether `resized_mse` takes these maps `(B, C, h, w)` and `(B, C, H, W)`.

    They are on a GPU, of fp32 or 16 bit, and H / h and W / w are whole numbers from 1 to 16.
    """
    if not 0 < student.numel() < _MAX_ELEMENTS or teacher[0].numel() >= _MAX_ELEMENTS:
        return False
    scales_fit = all(
        large % small == 0 and small <= large <= _MAX_SCALE * small
        for small, large in zip(student.shape[2:], teacher.shape[2:], strict=True)
    )
    return scales_fit and all(fused(t.device, t.dtype) for t in (student, teacher))


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
    return _resized_mse(student, teacher)


def _launch(student: Tensor, teacher: Tensor, upstream: Tensor | None) -> Tensor:
    """The value, or the student's gradient where `upstream`, the value's, is given."""
    from nnunetv2_dsvm.ops.triton.resized_mse import resized_mse_kernel

    student, teacher = (t.contiguous(memory_format=torch.channels_last) for t in (student, teacher))
    batch, channels, height, width = student.shape
    pixels = batch * height * width
    block_c = min(_MAX_BLOCK_C, 1 << (channels - 1).bit_length())
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


@torch.library.custom_op("nnunetv2_dsvm::resized_mse", mutates_args=())
@on_its_device
def _resized_mse(student: Tensor, teacher: Tensor) -> Tensor:
    return _launch(student, teacher, None)


@torch.library.custom_op("nnunetv2_dsvm::resized_mse_backward", mutates_args=())
@on_its_device
def _resized_mse_backward(upstream: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return _launch(student, teacher, upstream)


@_resized_mse.register_fake
def _(student, teacher):
    return student.new_empty((), dtype=torch.float32)


@_resized_mse_backward.register_fake
def _(upstream, student, teacher):
    return torch.empty_like(student, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, upstream: Tensor):
    return _resized_mse_backward(upstream, *ctx.saved_tensors), None


_resized_mse.register_autograd(_backward, setup_context=_setup_context)
