"""The orders in which the scan visits the tokens of a grid: the one place that knows how many and which."""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class ScanOrder(NamedTuple):
    """One walk through a grid of n axes.

    Attributes:
        axes: all axes of the grid, slowest first; the last is walked along first.
        reverse: from the last token to the first.
        step: along each axis only every so many-th token is visited (atrous), where `phase` begins.
        phase: the first token along each axis of the grid, each below `step`; empty for zeros.
    """

    axes: tuple[int, ...]
    reverse: bool = False
    step: int = 1
    phase: tuple[int, ...] = ()

    def check(self, sizes: Sequence[int]) -> None:
        """Raises ValueError unless it walks through a grid of these sizes."""
        n = len(sizes)
        if sorted(self.axes) != list(range(n)):
            raise ValueError(f"the axes of an order must be 0 to {n - 1} in any order for {n} sizes, got {self.axes}")
        if self.step < 1 or any(size % self.step for size in sizes):
            raise ValueError(f"the step of an order must divide the sizes {tuple(sizes)}, got {self.step}")
        if self.phase and (len(self.phase) != n or not all(0 <= p < self.step for p in self.phase)):
            raise ValueError(f"the phase must be {n} numbers from 0 to {self.step - 1}, got {self.phase}")

    def tokens(self, sizes: Sequence[int]) -> Tensor:
        """Raster indices of the tokens, in turn: int64 `(L / step ** n,)`."""
        phase = self.phase or (0,) * len(sizes)
        grid = torch.arange(prod(sizes)).view(tuple(sizes))[tuple(slice(p, None, self.step) for p in phase)]
        order = grid.permute(self.axes).flatten()
        return order.flip(0) if self.reverse else order


def axis_orders(axes: int) -> tuple[ScanOrder, ...]:
    """Along each axis, forwards, then backwards.

    Along direction k the axis n - 1 - k mod n runs fastest, the others in raster order; from k = n on, reversed. For an
    image these are the four of the official VM-UNet (arXiv 2402.02491), in its sequence: row-major, column-major,
    reversed row-major, reversed column-major.
    """
    forwards = [(*(a for a in range(axes) if a != fastest), fastest) for fastest in reversed(range(axes))]
    return tuple(ScanOrder(order, reverse) for reverse in (False, True) for order in forwards)


def atrous_orders(axes: int, step: int) -> tuple[ScanOrder, ...]:
    """The step ** n row-major walks that share a grid among them (ASP-VMUNet, arXiv 2503.19427); first axis slowest."""
    phases = itertools.product(range(step), repeat=axes)
    return tuple(ScanOrder(tuple(range(axes)), step=step, phase=phase) for phase in phases)


def num_directions(axes: int) -> int:
    """K of a grid with so many axes, where it is scanned in `axis_orders`."""
    return 2 * axes


NUM_DIRECTIONS = num_directions(2)  # of an image


@lru_cache(maxsize=64)
def grid_orders(
    sizes: tuple[int, ...], device: torch.device | str = "cpu", orders: tuple[ScanOrder, ...] | None = None
) -> Tensor:
    """Raster index of the token that each direction visits at each step, for a grid of n axes.

    Args:
        sizes: of the token grid, e.g. (height, width).
        device: where the result lives.
        orders: one a direction, all of one `step`; None: `axis_orders`.

    Returns:
        int64 tensor `(K, L)`, L the product of the sizes (by step ** n); row k has every raster index that direction k
        visits, once. The result is cached and shared: do not write to it.
    """
    # Made on the CPU and copied, for which the CPU waits: threads on other streams may use them at once. Outside of
    # inference mode, as autograd may keep them later.
    with torch.inference_mode(False):
        walks = axis_orders(len(sizes)) if orders is None else orders
        return torch.stack([order.tokens(sizes) for order in walks]).to(device)


def scan_orders(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """`grid_orders` of an image: `(4, height * width)`."""
    return grid_orders((height, width), device)


def as_numbers(orders: Sequence[ScanOrder] | None, sizes: Sequence[int]) -> list[int]:
    """Orders as an operator of torch takes them, flat; none for `axis_orders`."""
    if orders is None or tuple(orders) == axis_orders(len(sizes)):
        return []
    return [n for o in orders for n in (*o.axes, int(o.reverse), o.step, *(o.phase or (0,) * len(sizes)))]


def from_numbers(numbers: Sequence[int], axes: int) -> tuple[ScanOrder, ...] | None:
    """The inverse of `as_numbers`."""
    each = [tuple(numbers[i : i + 2 * axes + 2]) for i in range(0, len(numbers), 2 * axes + 2)]
    return tuple(ScanOrder(n[:axes], bool(n[axes]), n[axes + 1], n[axes + 2 :]) for n in each) or None
