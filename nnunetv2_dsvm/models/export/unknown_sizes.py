"""Sizes that are computed from an image's, in a form in which torch.export asks nothing about them.

It compares a size with 1 wherever torch could take a shorter way for it, and a program that was traced with more than
one token in the deepest stage would then refuse images with only one.
"""

from typing import cast

import torch


def unknown(size: int) -> int:
    """The same number, at least 1, as one of which torch.export knows nothing else."""
    return _at_least_1(torch.scalar_tensor(size, dtype=torch.int64))


def unknown_root(size: int) -> int:
    """Its square root, rounded up."""
    return _at_least_1(torch.scalar_tensor(size, dtype=torch.float32).sqrt().ceil().to(torch.int64))


def unknown_multiple(size: int, step: int) -> int:
    """The next multiple of `step` from `size` on, as an unknown number times the step."""
    multiple = unknown((size + step - 1) // step) * step
    torch._check(multiple >= size)
    return multiple


def _at_least_1(size: torch.Tensor) -> int:
    number = cast(int, size.item())
    torch._check(number >= 1)
    return number
