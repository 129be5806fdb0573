"""The weights of a recorded call's products, converted to autocast's type together instead of by each product."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from nnunetv2_dsvm.ops.side_branch import wait


@contextmanager
def converted_weights(twin: nn.Module, device_type: str) -> Iterator[None]:
    """Within it, under autocast, the parameters that modules name in `product_weights` are of autocast's type.

    Two launches take the place of one in each layer, and one for each gradient; the bits are the same.

    Args:
        twin: used by nobody else meanwhile. Its modules may have `product_weights`: the dotted names of fp32 parameters
            that nothing but products uses, which autocast would convert.
        device_type: of the call.
    """
    places = _places(twin) if torch.is_autocast_enabled(device_type) else []
    own = [owner[name] for owner, name in places]
    dtype = torch.get_autocast_dtype(device_type)
    try:
        for learnt in (True, False):
            chosen = [i for i, weight in enumerate(own) if weight.requires_grad == learnt]
            converted = _Converted.apply(dtype, *(own[i] for i in chosen)) if chosen else ()
            for i, weight in zip(chosen, converted, strict=True):
                owner, name = places[i]
                owner[name] = weight
        yield
    finally:
        for (owner, name), weight in zip(places, own, strict=True):
            owner[name] = weight


def is_converted(node: Node) -> bool:
    """Whether a node of autograd's gives the gradients of weights that were converted together."""
    return type(node).__name__ == f"{_Converted.__name__}Backward"


def _places(twin: nn.Module) -> list[tuple[dict, str]]:
    """Where modules keep the parameters that they name: in which of their dictionaries, and as what."""
    places = {}
    for module in twin.modules():
        for path in getattr(module, "product_weights", ()):
            *path_to_owner, name = path.split(".")
            try:
                owner = module.get_submodule(".".join(path_to_owner))._parameters
            except AttributeError:  # of a subclass that has another layer there
                continue
            if (weight := owner.get(name)) is not None and weight.dtype == torch.float32:
                places[id(owner), name] = owner, name
    return list(places.values())


class _Converted(torch.autograd.Function):
    """Tensors in another type, and their gradients in the tensors' own; a launch each."""

    @staticmethod
    def forward(ctx, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # or weights that nothing used would get zeros instead of no gradient
        return tuple(_in_type(tensors, dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [g for g in grads if g is not None]
        if given:
            wait(given[0].device)
        converted = iter(_in_type(given, torch.float32))
        return None, *(None if g is None else next(converted) for g in grads)


def _in_type(tensors: tuple[Tensor, ...] | list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    new = [torch.empty_like(t, dtype=dtype) for t in tensors]
    if new:
        torch._foreach_copy_(new, list(tensors))
    return new
