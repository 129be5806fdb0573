"""What a scan is called with, as the backends see it; operators of torch.library take the same as flat arguments."""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_order import ScanOrder, num_directions


def grid_sizes(*sizes: int) -> tuple[int, ...]:
    """The sizes of a token grid; while `torch.jit.trace` records, the numbers of the tensors that it makes of them.

    An operator's list of numbers may not hold tensors: torch then stops at an assertion of its own.
    """
    return tuple(int(size) for size in sizes) if torch.jit.is_tracing() else sizes


class ScanShape(NamedTuple):
    """Sizes of a call: a grid of `sizes` tokens of `d_inner` channels with `d_state` states each, K `directions`.

    Attributes:
        orders: the K walks through the grid; None: `axis_orders`.
    """

    batch: int
    sizes: tuple[int, ...]
    d_inner: int
    d_state: int
    directions: int
    orders: tuple[ScanOrder, ...] | None = None

    @classmethod
    def of_grid(cls, batch: int, sizes: tuple[int, ...], d_inner: int, d_state: int = 16) -> "ScanShape":
        """With all directions of a grid with so many axes."""
        return cls(batch, sizes, d_inner, d_state, num_directions(len(sizes)))

    @property
    def length(self) -> int:
        """L, the tokens of the grid."""
        return prod(self.sizes)

    @property
    def step(self) -> int:
        """Of all walks: along each axis they visit every so many-th token."""
        return self.orders[0].step if self.orders else 1

    @property
    def visited(self) -> int:
        """Tokens of a walk."""
        return self.length // self.step ** len(self.sizes)

    def __str__(self) -> str:
        grid = "×".join(map(str, self.sizes))
        return f"batch {self.batch}, {grid} tokens, d_inner {self.d_inner}, N {self.d_state}"


class ScanInputs(NamedTuple):
    """The tensors of a call, shaped as in `nnunetv2_dsvm.ops.selective_scan`, the grid and the walks through it."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt_bias: Tensor
    sizes: tuple[int, ...]
    orders: tuple[ScanOrder, ...] | None = None  # None: `axis_orders`

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All seven, in the order of `ScanGradients`."""
        return self.x, self.dt, self.A, self.B, self.C, self.D, self.dt_bias

    @property
    def shape(self) -> ScanShape:
        """The sizes of the call; K is the parameters'."""
        directions, d_inner, d_state = self.A.shape
        return ScanShape(self.x.shape[0], self.sizes, d_inner, d_state, directions, self.orders)

    @property
    def dtype(self) -> torch.dtype:
        """That of x, B and C, which cross memory; float32 where they differ."""
        return common_dtype(self.x, self.B, self.C)


class ScanGradients(NamedTuple):
    """The gradients of a call's tensors, in their shapes and dtypes."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt_bias: Tensor


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """Of all tensors; float32 where they differ."""
    dtypes = {t.dtype for t in tensors}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def token_strides(*tensors: Tensor) -> tuple[int, ...]:
    """Of dense `(batch, L, …)`, elements from a token to the next; where L is 1, from an image to the next.

    torch leaves the stride of an axis of size 1 any: it may be that of another axis.
    """
    return tuple(t.stride(1 if t.shape[1] > 1 else 0) for t in tensors)
