"""The selective scan in plain torch, in about 2 * sqrt(L) vectorised steps: any device, no compiler.

The L tokens of a direction are cut into chunks of T ~ sqrt(L). One pass steps through all chunks at once from a zero
state and gives each chunk's own contribution to its last state; a short recurrence over the chunks turns these into
the state that enters each chunk; a second pass from those states gives the outputs. Backward does the same in reverse
and recomputes the states of one tile at a time, so that no more than `_TILE_ELEMENTS` of them ever exist.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS, scan_orders

# States (tokens * channels * d_state) recomputed at once. With chunks of sqrt(L) tokens, one vectorised step then
# touches about 1 MiB, which stays in a CPU core's cache.
_TILE_ELEMENTS = 2**24


def supports(device: torch.device, dtype: torch.dtype, d_state: int) -> tuple[bool, str]:
    """Runs on every device and dtype that torch has."""
    return True, "plain torch, runs on every device"


class _Tile(NamedTuple):
    """One direction of some images and some channels, in that direction's order, cut into chunks.

    G = images * chunks. Step-major, so that one step of all chunks is one contiguous slice.
    """

    u: Tensor  # (T, G, 1, channels)
    raw_dt: Tensor  # (T, G, 1, channels), before softplus, bias added
    delta: Tensor  # (T, G, 1, channels), zero beyond the last token: such a step leaves the state as it is
    b: Tensor  # (T, G, d_state, 1)
    c: Tensor  # (T, G, d_state, 1)
    A: Tensor  # (d_state, channels)
    A_log2: Tensor  # A / ln 2: exp2 is four times faster than exp on a CPU
    images: int


def _tiles(batch: int, length: int, channels: int, d_state: int) -> Iterator[tuple[int, slice, slice]]:
    """(direction, images, channels) slices of at most `_TILE_ELEMENTS` states."""
    channel_step = max(1, min(channels, _TILE_ELEMENTS // (length * d_state)))
    batch_step = max(1, _TILE_ELEMENTS // (length * d_state * channel_step))
    for k in range(NUM_DIRECTIONS):
        for b in range(0, batch, batch_step):
            for d in range(0, channels, channel_step):
                yield k, slice(b, b + batch_step), slice(d, d + channel_step)


def _to_chunks(t: Tensor, chunk: int) -> Tensor:
    """(images, L, X) -> (T, images * chunks, X), zero-padded to whole chunks."""
    images, length, width = t.shape
    chunks = math.ceil(length / chunk)
    t = F.pad(t, (0, 0, 0, chunks * chunk - length))
    return t.view(images * chunks, chunk, width).transpose(0, 1).contiguous()


def _from_chunks(t: Tensor, images: int, length: int) -> Tensor:
    """(T, images * chunks, X) -> (images, L, X): the inverse of `_to_chunks`."""
    return t.transpose(0, 1).reshape(images, -1, t.shape[-1])[:, :length]


def _load_tile(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
    order: Tensor, k: int, images: slice, channels: slice, dtype: torch.dtype,
) -> _Tile:  # fmt: skip
    chunk = math.ceil(math.sqrt(x.shape[1]))
    raw_dt = dt[images, :, k, channels][:, order].to(dtype) + dt_bias[k, channels].to(dtype)
    u = x[images, :, channels][:, order].to(dtype)
    a = A[k, channels].to(dtype).t().contiguous()
    return _Tile(
        u=_to_chunks(u, chunk).unsqueeze(2),
        raw_dt=_to_chunks(raw_dt, chunk).unsqueeze(2),
        delta=_to_chunks(-F.logsigmoid(-raw_dt), chunk).unsqueeze(2),  # softplus, five times faster on a CPU
        b=_to_chunks(B[images, :, k][:, order].to(dtype), chunk).unsqueeze(3),
        c=_to_chunks(C[images, :, k][:, order].to(dtype), chunk).unsqueeze(3),
        A=a,
        A_log2=a / math.log(2),
        images=u.shape[0],
    )


def _across_chunks(tile: _Tile, own: Tensor, reverse: bool) -> Tensor:
    """What enters each chunk, given what each chunk adds by itself: (G, d_state, channels) both ways."""
    decay = torch.exp2(tile.delta.sum(0) * tile.A_log2).unflatten(0, (tile.images, -1))
    own = own.unflatten(0, (tile.images, -1))
    entering = torch.zeros_like(own)
    chunks = own.shape[1]
    steps = range(chunks - 2, -1, -1) if reverse else range(1, chunks)
    for i in steps:
        before = i + 1 if reverse else i - 1
        torch.addcmul(own[:, before], decay[:, before], entering[:, before], out=entering[:, i])
    return entering.flatten(0, 1)


def _entering_states(tile: _Tile, du: Tensor) -> Tensor:
    """The state that enters each chunk, `(G, d_state, channels)`."""
    state = torch.zeros(tile.b.shape[1], *tile.A.shape, dtype=tile.u.dtype, device=tile.u.device)
    if tile.b.shape[1] == tile.images:  # one chunk
        return state
    decay = torch.empty_like(state)
    for delta_t, b_t, du_t in zip(tile.delta, tile.b, du, strict=True):
        torch.mul(delta_t, tile.A_log2, out=decay).exp2_()
        state.mul_(decay).addcmul_(b_t, du_t)
    return _across_chunks(tile, state, reverse=False)


def forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, height: int, width: int
) -> Tensor:
    """As `reference.forward`; shapes as in `nnunetv2_dsvm.ops.ss2d_scan`. fp32 arithmetic, fp64 for fp64 inputs."""
    batch, length, width_x = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    orders = scan_orders(height, width, x.device)
    y = x * D.to(dtype).sum(0)
    for k, images, channels in _tiles(batch, length, width_x, A.shape[-1]):
        tile = _load_tile(x, dt, A, B, C, dt_bias, orders[k], k, images, channels, dtype)
        du = tile.delta * tile.u
        state = _entering_states(tile, du)
        decay = torch.empty_like(state)
        out = torch.empty_like(tile.u)
        for delta_t, b_t, c_t, du_t, out_t in zip(tile.delta, tile.b, tile.c.mT, du, out, strict=True):
            torch.mul(delta_t, tile.A_log2, out=decay).exp2_()
            state.mul_(decay).addcmul_(b_t, du_t)
            torch.bmm(c_t, state, out=out_t)
        y[images, :, channels].index_add_(1, orders[k], _from_chunks(out.squeeze(2), tile.images, length))
    return y.to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    height: int, width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, dt, A, B, C, D and dt_bias, given `grad`, the gradient of the output `(batch, L, channels)`."""
    batch, length, width_x = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    orders = scan_orders(height, width, x.device)
    grad = grad.to(dtype)
    grad_x = grad * D.to(dtype).sum(0)
    grad_D = torch.einsum("bld,bld->d", grad, x.to(dtype)).expand(NUM_DIRECTIONS, -1)
    grad_dt, grad_B, grad_C = (torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (dt, B, C))
    grad_A, grad_bias = (torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (A, dt_bias))

    for k, images, channels in _tiles(batch, length, width_x, A.shape[-1]):
        order = orders[k]
        tile = _load_tile(x, dt, A, B, C, dt_bias, order, k, images, channels, dtype)
        gy = _to_chunks(grad[images, :, channels][:, order], math.ceil(math.sqrt(length))).unsqueeze(2)
        gu, gdelta, gA, gb, gc = _tile_backward(tile, gy)

        def in_order(t: Tensor, images_here: int = tile.images) -> Tensor:
            return _from_chunks(t.flatten(2), images_here, length)

        graw = in_order(gdelta * torch.sigmoid(tile.raw_dt))
        grad_x[images, :, channels].index_add_(1, order, in_order(gu))
        grad_dt[images, :, k, channels].index_copy_(1, order, graw)
        grad_B[images, :, k].index_add_(1, order, in_order(gb))
        grad_C[images, :, k].index_add_(1, order, in_order(gc))
        grad_A[k, channels] += gA.t()
        grad_bias[k, channels] += graw.sum((0, 1))

    inputs = (x, dt, A, B, C, D, dt_bias)
    grads = (grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_bias)
    return tuple(g.to(t.dtype).contiguous() for g, t in zip(grads, inputs, strict=True))


def _tile_backward(tile: _Tile, gy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a tile's u, delta, A, b and c; gy is `(T, G, 1, channels)`."""
    steps = tile.u.shape[0]
    du = tile.delta * tile.u
    entering = _entering_states(tile, du)
    decay = torch.empty_like(entering)

    # The states of this tile, states[t] before step t; and grad_C on the way.
    states = torch.empty(steps + 1, *entering.shape, dtype=entering.dtype, device=entering.device)
    states[0] = entering
    gc = torch.empty_like(tile.c)
    for t in range(steps):
        torch.mul(tile.delta[t], tile.A_log2, out=decay).exp2_()
        torch.mul(states[t], decay, out=states[t + 1]).addcmul_(tile.b[t], du[t])
        torch.bmm(states[t + 1], gy[t].transpose(1, 2), out=gc[t])

    # The gradient of the state that leaves each chunk.
    flow = torch.zeros_like(entering)
    if tile.b.shape[1] > tile.images:
        for t in reversed(range(steps)):
            torch.mul(tile.delta[t], tile.A_log2, out=decay).exp2_()
            flow.addcmul_(tile.c[t], gy[t]).mul_(decay)
        flow = _across_chunks(tile, flow, reverse=True)

    gdu, gdelta, gb = torch.empty_like(tile.u), torch.empty_like(tile.u), torch.empty_like(tile.b)
    gA = torch.zeros_like(entering)
    for t in reversed(range(steps)):
        flow.addcmul_(tile.c[t], gy[t])
        torch.bmm(tile.b[t].transpose(1, 2), flow, out=gdu[t])
        torch.bmm(flow, du[t].transpose(1, 2), out=gb[t])
        torch.mul(tile.delta[t], tile.A_log2, out=decay).exp2_()
        flow.mul_(decay)
        gradient_of_exponent = states[t].mul_(flow)  # states[t] is not needed any more
        gA.addcmul_(gradient_of_exponent, tile.delta[t])
        torch.sum(gradient_of_exponent.mul_(tile.A), dim=1, keepdim=True, out=gdelta[t])
    gdelta.addcmul_(gdu, tile.u)
    return gdu * tile.delta, gdelta, gA.sum(0), gb, gc
