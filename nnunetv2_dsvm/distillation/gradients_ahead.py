"""A loss that computes its gradients together with its value, so that it keeps nothing else for the backward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nnunetv2_dsvm.distillation.precision import at_least_fp32
from nnunetv2_dsvm.ops.once_differentiable import once_differentiable


def with_gradients_ahead(loss: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """`loss(*maps)`, whose gradients are computed at once and wait for the backward in place of all between.

    A distance enlarges a student to its teacher's size, 64 times from 1/16 to 1/4 in 3D, and autograd would keep
    several maps of that size in fp32; the gradient has the student's own. Differentiable once. Where torch.compile
    traces it is the plain loss: there the compiler decides what is kept.

    Args:
        loss: takes the maps and returns a scalar.
        maps: those that require a gradient get one, kept in bf16 for maps of bf16 and in fp32 for fp16, where a mean
            over many elements has gradients too small for it.
    """
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and any(m.requires_grad for m in maps)):
        return loss(*maps)
    return _WithGradientsAhead.apply(loss, *maps)


class _WithGradientsAhead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Callable[..., Tensor], *maps: Tensor) -> Tensor:
        ctx.needed = ctx.needs_input_grad[1:]
        leaves = [
            (m if m.dtype == torch.bfloat16 else at_least_fp32(m)).detach().requires_grad_(needed)
            for m, needed in zip(maps, ctx.needed, strict=True)
        ]
        with torch.enable_grad():
            value = loss(*leaves)
        ctx.save_for_backward(*torch.autograd.grad(value, [leaf for leaf in leaves if leaf.requires_grad]))
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        return None, *(upstream * next(gradients) if needed else None for needed in ctx.needed)
