"""Means over whole windows of maps with channels last in memory, as one differentiable operator on GPUs.

torch's kernels for this memory order take some ten times what reading and writing the maps does.
"""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import fused_backend, fused_operators, required_backend

_MAX_WINDOW = 16  # per axis; the kernel's code grows with it


def supports(features: Tensor, window: tuple[int, ...]) -> bool:
    """Whether `average_pool` takes the map `(B, C, H, W)` and a window.

    It has its channels last in memory and is on a GPU, of fp32 or 16 bit, and the window, of up to 16 pixels along each
    axis, divides H and W.
    """
    if features.ndim != 4 or features.numel() == 0 or not features.is_contiguous(memory_format=torch.channels_last):
        return False
    fits = all(w <= _MAX_WINDOW and size % w == 0 for size, w in zip(features.shape[2:], window, strict=True))
    return fits and fused_backend(features.device, features.dtype) is not None


def average_pool(features: Tensor, window: tuple[int, ...]) -> Tensor:
    """The means over windows that lie side by side, as `avg_pool2d`; for maps that `supports` takes.

    Args:
        features: `(B, C, H, W)`, fp32 or 16 bit.
        window: its pixels along H and W.

    Returns:
        `(B, C, H / window[0], W / window[1])`, channels last in memory, in the type of `features`; summed in fp32.
    """
    return _average_pool(features, list(window), required_backend(features))


@torch.library.custom_op("nnunetv2_dsvm::average_pool", mutates_args=())
@on_its_device
def _average_pool(features: Tensor, window: list[int], backend: str) -> Tensor:
    return fused_operators(backend).average_pool(features, window)


@torch.library.custom_op("nnunetv2_dsvm::average_pool_backward", mutates_args=())
@on_its_device
def _average_pool_backward(grad: Tensor, window: list[int], backend: str) -> Tensor:
    return fused_operators(backend).average_pool_backward(grad, window)


def _like(features: Tensor, height: int, width: int) -> Tensor:
    shape = (*features.shape[:2], height, width)
    return torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=torch.channels_last)


@_average_pool.register_fake
def _(features, window, backend):
    return _like(features, features.shape[2] // window[0], features.shape[3] // window[1])


@_average_pool_backward.register_fake
def _(grad, window, backend):
    return _like(grad, grad.shape[2] * window[0], grad.shape[3] * window[1])


def _setup_context(ctx, inputs, output) -> None:
    _, ctx.window, ctx.backend = inputs


def _backward(ctx, grad: Tensor):
    return _average_pool_backward(grad, ctx.window, ctx.backend), None, None


_average_pool.register_autograd(_backward, setup_context=_setup_context)
