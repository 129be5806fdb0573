"""Whether all ranks of a distributed training hold the same weights."""

from collections.abc import Iterable

import torch
from torch import distributed as dist
from torch import nn

_MIXED = 0x9E3779B97F4A7C1  # odd: any; neighbouring places get numbers that have nothing in common
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def parameters_that_differ(modules: Iterable[nn.Module]) -> list[str]:
    """The names of the parameters that are not the same on every rank, to the bit.

    Every rank has to call it, with modules of the same structure, and gets the same answer. Compared are sums of
    the bits, read as integers and multiplied by a number of their place, so that little is sent.
    """
    named = [item for module in modules for item in module.named_parameters()]
    sums = torch.stack([sum_of_bits(parameter.detach()) for _, parameter in named])
    extremes = torch.stack([sums, -sums])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    same = (extremes[0] == -extremes[1]).tolist()
    return [name for (name, _), equal in zip(named, same, strict=True) if not equal]


def sum_of_bits(values: torch.Tensor) -> torch.Tensor:
    """A number (a scalar of int64) of the bits of all values and their places: another one where one bit differs."""
    bits = values.contiguous().view(_INTEGERS[values.element_size()]).flatten().long()
    places = 2 * torch.arange(bits.numel(), device=bits.device) + 1
    return (bits * (places * _MIXED)).sum()  # wraps around
