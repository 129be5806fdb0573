"""The orders in which the scan visits the tokens of a grid: the one place that knows how many and which."""

from functools import lru_cache
from math import prod

import torch
from torch import Tensor


def num_directions(axes: int) -> int:
    """K of a grid with so many axes: along each, forwards and backwards."""
    return 2 * axes


NUM_DIRECTIONS = num_directions(2)  # of an image


@lru_cache(maxsize=64)
def grid_orders(sizes: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Raster index of the token that each direction visits at each step, for a grid of n axes.

    Along direction k the axis n - 1 - k mod n runs fastest, the others in raster order; from k = n on, reversed. For an
    image these are the four of the official VM-UNet (arXiv 2402.02491), in its sequence: row-major, column-major,
    reversed row-major, reversed column-major.

    Args:
        sizes: of the token grid, e.g. (height, width).
        device: where the result lives.

    Returns:
        int64 tensor `(K, L)`, L the product of the sizes; row k is a permutation of the raster indices. The result is
        cached and shared: do not write to it.
    """
    # Made on the CPU and copied, for which the CPU waits: threads on other streams may use them at once. Outside of
    # inference mode, as autograd may keep them later.
    with torch.inference_mode(False):
        step = torch.arange(prod(sizes))
        orders = []
        for axis in reversed(range(len(sizes))):
            size, stride = sizes[axis], prod(sizes[axis + 1 :])
            line = step // size
            orders.append(line // stride * (size * stride) + line % stride + step % size * stride)
        return torch.stack([*orders, *(order.flip(0) for order in orders)]).to(device)


def scan_orders(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """`grid_orders` of an image: `(4, height * width)`."""
    return grid_orders((height, width), device)
