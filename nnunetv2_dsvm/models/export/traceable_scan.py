"""The selective scan of `ops`, written so that torch.export and ONNX can trace it for a grid of any size.

The backends of `ops` cannot be exported: their operators are this package's own, and their loops have a fixed number of
steps. Here the loops are torch's higher-order operator `scan` (ONNX: `Scan`), of which a program holds one step only,
and every other operation is torch's own.
"""

import functools
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.models.export.unknown_sizes import unknown, unknown_root
from nnunetv2_dsvm.ops.scan_order import ScanOrder, axis_orders


def scan_by_rows(
    x: Tensor, dt: Sequence[Tensor], A: Tensor, B: Sequence[Tensor], C: Sequence[Tensor], D: Tensor,
    orders: Sequence[ScanOrder] | None = None,
) -> Tensor:  # fmt: skip
    """The scan of a grid as `nnunetv2_dsvm.ops.selective_scan` defines it; for inference.

    Each direction's L tokens, in its order, are cut into chunks of W, the grid's last size: for an image of H * W
    tokens, H of them. As in `ops.torch_chunked`, all chunks go through their W tokens at once from a zero state, a loop
    over the chunks gives the state that enters each, and a second pass from those gives the outputs: 2 W + L / W steps
    instead of L.

    Args:
        x: `(batch, *sizes, d_inner)`, float32 or float64, as all others.
        dt: step sizes after bias and softplus, `(batch, *sizes, d_inner)` for each of the K directions.
        A: `(K, d_inner, N)`, negative.
        B, C: `(batch, *sizes, N)` for each direction.
        D: `(K, d_inner)`.
        orders: K walks through the grid, whose sizes their step divides; None: two per axis (`axis_orders`).

    Returns:
        `(batch, *sizes, d_inner)`, the sum over the directions.
    """
    if x.ndim == 3:
        return _scan_of_a_sequence(x, dt, A, B, C, D, orders)
    batch, *sizes, channels = x.shape
    walks = axis_orders(len(sizes)) if orders is None else orders
    directions, d_state = len(walks), A.shape[-1]
    # One tensor of all that a step reads, so that it is brought into the order of the scan once.
    tokens = [torch.cat([dt[k], dt[k] * x, B[k], C[k]], dim=-1) for k in range(directions)]
    tokens = [_in_chunks(_in_order(t, order)) for t, order in zip(tokens, walks, strict=True)]
    # (step, chunk, K, batch, ...). clone and not contiguous, which would look at the sizes and fix them.
    steps = torch.stack(tokens).permute(3, 2, 0, 1, 4).clone(memory_format=torch.contiguous_format)
    delta, delta_x, b, c = steps.split([channels, channels, d_state, d_state], dim=-1)
    A = A.mT.clone(memory_format=torch.contiguous_format).unsqueeze(1)  # (K, 1, N, d_inner)

    scan = torch.ops.higher_order.scan
    nothing = x.new_zeros(steps.shape[1], directions, batch, d_state, channels)
    (own,) = scan(_advance, (nothing,), (delta, delta_x, b), (A,))
    decay = torch.exp(delta.sum(0).unsqueeze(-2) * A)
    _, initial_state = scan(_pass_on, (x.new_zeros(directions, batch, d_state, channels),), (decay, own), ())
    _, y = scan(_advance_and_read, (initial_state,), (delta, delta_x, b, c), (A,))
    y = y.permute(2, 3, 1, 0, 4)  # (K, batch, chunk, step, d_inner)
    result = _sum(_back_in_place(y[k], order, sizes) for k, order in enumerate(walks))
    if all(order.step == 1 for order in walks):
        return result + x * D.sum(0)
    of_each = ((_in_chunks(_in_order(x, order)) * D[k], order) for k, order in enumerate(walks))
    return result + _sum(_back_in_place(t, order, sizes) for t, order in of_each)


def _scan_of_a_sequence(
    x: Tensor, dt: Sequence[Tensor], A: Tensor, B: Sequence[Tensor], C: Sequence[Tensor], D: Tensor,
    orders: Sequence[ScanOrder] | None,
) -> Tensor:  # fmt: skip
    """`scan_by_rows` of L tokens `(batch, L, ·)` as a square grid of them; step sizes of 0 behind the last."""
    length = x.shape[1]
    width = unknown_root(length)
    rows = unknown((length + width - 1) // width)
    torch._check(rows * width >= length)

    def folded(t: Tensor) -> Tensor:
        return F.pad(t, (0, 0, 0, rows * width - length)).unflatten(1, (rows, width))

    walks = [ScanOrder((0, 1), order.reverse) for order in orders or axis_orders(1)]
    dt, B, C = ([folded(t) for t in tensors] for tensors in (dt, B, C))
    return scan_by_rows(folded(x), dt, A, B, C, D, walks).flatten(1, 2)[:, :length]


def _in_order(t: Tensor, order: ScanOrder) -> Tensor:
    """The tokens `(batch, *sizes, X)` that an order visits, in turn: `(batch, *sizes, X)` with sizes by its step."""
    if order.step > 1:
        for axis, phase in enumerate(order.phase or (0,) * len(order.axes), 1):
            t = t.unflatten(axis, (t.shape[axis] // order.step, order.step)).select(axis + 1, phase)
    axes = range(1, t.ndim - 1)
    if order.axes != tuple(range(len(axes))):
        t = t.permute(0, *(1 + axis for axis in order.axes), t.ndim - 1).reshape(t.shape)
    return t.flip(*axes) if order.reverse else t


def _in_chunks(t: Tensor) -> Tensor:
    """`(batch, *sizes, X)` as `(batch, chunks, W, X)`."""
    return t.flatten(1, -3)


def _back_in_place(t: Tensor, order: ScanOrder, sizes: Sequence[int]) -> Tensor:
    """The inverse of `_in_order` and `_in_chunks` for a grid of `sizes`, 0 where the order does not pass."""
    batch, channels = t.shape[0], t.shape[-1]
    if order.reverse:
        t = t.flip(1, 2)
    t = t.reshape(batch, *(sizes[axis] // order.step for axis in order.axes), channels)
    if order.axes != tuple(range(len(sizes))):
        t = t.permute(0, *(1 + order.axes.index(axis) for axis in range(len(sizes))), t.ndim - 1)
    if order.step > 1:
        for axis, phase in enumerate(order.phase or (0,) * len(sizes), 1):
            beside = [0, 0] * (t.ndim - axis - 1)  # of the axes behind this one
            t = F.pad(t.unsqueeze(axis + 1), [*beside, phase, order.step - 1 - phase]).flatten(axis, axis + 1)
    return t


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)


# The bodies of the loops. States are (..., N, d_inner).


def _advance(state: Tensor, delta: Tensor, delta_x: Tensor, b: Tensor, A: Tensor) -> list[Tensor]:
    return [torch.exp(delta.unsqueeze(-2) * A) * state + b.unsqueeze(-1) * delta_x.unsqueeze(-2)]


def _pass_on(state: Tensor, decay: Tensor, own: Tensor) -> list[Tensor]:
    """The state after a chunk, and the one before it: a copy, for a body must not return what it was given."""
    return [decay * state + own, state.clone()]


def _advance_and_read(state: Tensor, delta: Tensor, delta_x: Tensor, b: Tensor, c: Tensor, A: Tensor) -> list[Tensor]:
    (state,) = _advance(state, delta, delta_x, b, A)
    return [state, (c.unsqueeze(-1) * state).sum(-2)]
