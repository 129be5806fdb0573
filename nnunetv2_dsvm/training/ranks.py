"""Whether all ranks of a distributed training hold the same weights."""

from collections.abc import Iterable

import torch
from torch import distributed as dist
from torch import nn

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def parameters_that_differ(modules: Iterable[nn.Module]) -> list[str]:
    """The names of the parameters that are not the same on every rank, to the bit.

    Every rank has to call it, with modules of the same structure, and gets the same answer. Compared are the sums of
    the bits, read as integers, so that little is sent.
    """
    named = [item for module in modules for item in module.named_parameters()]
    sums = torch.stack([_sum_of_bits(parameter.detach()) for _, parameter in named])
    extremes = torch.stack([sums, -sums])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    same = (extremes[0] == -extremes[1]).tolist()
    return [name for (name, _), equal in zip(named, same, strict=True) if not equal]


def _sum_of_bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(_INTEGERS[values.element_size()]).sum(dtype=torch.int64)
