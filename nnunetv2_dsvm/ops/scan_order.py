"""The four orders in which SS2D visits the tokens of an image."""

from functools import lru_cache

import torch
from torch import Tensor

NUM_DIRECTIONS = 4


@lru_cache(maxsize=64)
def scan_orders(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Raster index of the token that each direction visits at each step.

    Directions, in the order of the official VM-UNet (arXiv 2402.02491): row-major, column-major, reversed row-major,
    reversed column-major.

    Args:
        height, width: size of the token grid.
        device: where the result lives.

    Returns:
        int64 tensor `(4, height * width)`; row k is a permutation of the raster indices `row * width + column`.
        The result is cached and shared: do not write to it.
    """
    # Made on the CPU and copied, for which the CPU waits: threads on other streams may use them at once. Outside of
    # inference mode, as autograd may keep them later.
    with torch.inference_mode(False):
        row_major = torch.arange(height * width)
        column_major = row_major.view(height, width).t().reshape(-1)
        return torch.stack([row_major, column_major, row_major.flip(0), column_major.flip(0)]).to(device)
