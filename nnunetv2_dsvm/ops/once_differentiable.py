"""Backwards of autograd functions that cannot be differentiated themselves."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def once_differentiable(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable:
    """A `backward` whose gradients can be used with `create_graph=True`, but not differentiated.

    torch's decorator of this name hands them out as constants where no upstream gradient requires one, as below a sum
    of losses. They depend on what was saved as well: a penalty on them would be left out of the gradient without a
    word.

    Raises:
        RuntimeError: in the second backward.
    """

    @wraps(backward)
    def run(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            grads = backward(ctx, *upstream)
        if not torch.is_grad_enabled():
            return grads
        return tuple(None if g is None else _Once.apply(g.detach().requires_grad_(), type(ctx).__name__) for g in grads)

    return run


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, name: str) -> Tensor:
        ctx.name = name
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            f"{ctx.name}: its gradients are computed by an operator that cannot be differentiated again, as a "
            "penalty on gradients would need it; leave that out of the loss"
        )
