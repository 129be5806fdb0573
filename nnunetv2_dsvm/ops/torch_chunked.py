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
# touches about 1 MiB, which stays in a CPU core's cache; small images fit whole, all directions in one tile.
_TILE_ELEMENTS = 2**24


def supports(device: torch.device, dtype: torch.dtype, d_state: int) -> tuple[bool, str]:
    """Runs on every device and dtype that torch has."""
    return True, "plain torch, runs on every device"


class _Part(NamedTuple):
    """Which directions, images and channels a tile holds."""

    directions: slice
    images: slice
    channels: slice


def _parts(batch: int, length: int, channels: int, d_state: int) -> Iterator[_Part]:
    """Cuts the work into tiles of at most `_TILE_ELEMENTS` states: along directions first, channels last."""
    per_channel = length * d_state
    channel_step = max(1, min(channels, _TILE_ELEMENTS // per_channel))
    image_step = max(1, min(batch, _TILE_ELEMENTS // (per_channel * channel_step)))
    direction_step = max(1, min(NUM_DIRECTIONS, _TILE_ELEMENTS // (per_channel * channel_step * image_step)))
    for k in range(0, NUM_DIRECTIONS, direction_step):
        for b in range(0, batch, image_step):
            for d in range(0, channels, channel_step):
                yield _Part(slice(k, k + direction_step), slice(b, b + image_step), slice(d, d + channel_step))


class _Chunks:
    """To and from chunks: `(images, L, K, X)` in raster order, `(T, K, images * chunks, X)` in scan order.

    Step-major, so that one step of all chunks is one contiguous slice.
    """

    def __init__(self, orders: Tensor) -> None:
        self.orders = orders
        self.length = orders.shape[1]
        self.size = math.ceil(math.sqrt(self.length))
        self.count = math.ceil(self.length / self.size)

    def cut(self, t: Tensor) -> Tensor:
        """Zero-padded to whole chunks."""
        ordered = torch.stack([t[:, order, k] for k, order in enumerate(self.orders)])
        padded = F.pad(ordered, (0, 0, 0, self.count * self.size - self.length))
        return padded.view(padded.shape[0], -1, self.size, padded.shape[-1]).permute(2, 0, 1, 3).contiguous()

    def join(self, t: Tensor) -> Tensor:
        """The inverse of `cut`, but still in scan order: `(K, images, L, X)`."""
        t = t.permute(1, 2, 0, 3)
        return t.reshape(t.shape[0], -1, self.count * self.size, t.shape[-1])[:, :, : self.length]


class _Tile(NamedTuple):
    """The inputs of a part, in scan order and cut into chunks; G = images * chunks."""

    chunks: _Chunks
    u: Tensor  # (T, K, G, 1, channels)
    raw_dt: Tensor  # (T, K, G, 1, channels), before softplus, bias added
    delta: Tensor  # (T, K, G, 1, channels), zero beyond the last token: such a step leaves the state as it is
    b: Tensor  # (T, K, G, d_state, 1)
    c: Tensor  # (T, K, G, d_state, 1)
    A: Tensor  # (K, 1, d_state, channels)
    A_log2: Tensor  # A / ln 2: exp2 is four times faster than exp on a CPU


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), three times as fast on a CPU as torch's; relative error below 1e-6 in fp32 where |x| < 20.

    max(x, 0) + log1p(t) with t = exp(-|x|). log1p is what takes so long; with u = 1 + t as rounded it is
    log(u) t / (u - 1), in which the rounding of u cancels (Goldberg 1991, theorem 4).
    """
    t = torch.exp2(x.abs().mul_(-1 / math.log(2)))
    u = 1 + t
    log1p = torch.log(u).mul_(t).div_(u - 1)
    return torch.where(u == 1, t, log1p).add_(x.clamp(min=0))


def _load_tile(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor, orders: Tensor, part: _Part
) -> _Tile:
    dtype = torch.promote_types(x.dtype, torch.float32)
    directions, images, channels = part
    chunks = _Chunks(orders[directions])
    raw_dt = dt[images, :, directions, channels].to(dtype) + dt_bias[directions, channels].to(dtype)
    a = A[directions, channels].to(dtype).mT.contiguous().unsqueeze(1)
    x = x[images, :, channels].to(dtype).unsqueeze(2).expand_as(raw_dt)
    return _Tile(
        chunks=chunks,
        u=chunks.cut(x).unsqueeze(3),
        raw_dt=chunks.cut(raw_dt).unsqueeze(3),
        delta=chunks.cut(_softplus(raw_dt)).unsqueeze(3),
        b=chunks.cut(B[images, :, directions].to(dtype)).unsqueeze(4),
        c=chunks.cut(C[images, :, directions].to(dtype)).unsqueeze(4),
        A=a,
        A_log2=a / math.log(2),
    )


def _across_chunks(tile: _Tile, own: Tensor, reverse: bool) -> Tensor:
    """What enters each chunk, given what each chunk adds by itself: (K, G, d_state, channels) both ways."""
    count = tile.chunks.count
    decay = torch.exp2(tile.delta.sum(0) * tile.A_log2).unflatten(1, (-1, count))
    own = own.unflatten(1, (-1, count))
    entering = torch.zeros_like(own)
    for i in range(count - 2, -1, -1) if reverse else range(1, count):
        before = i + 1 if reverse else i - 1
        torch.addcmul(own[:, :, before], decay[:, :, before], entering[:, :, before], out=entering[:, :, i])
    return entering.flatten(1, 2)


def _entering_states(tile: _Tile, du: Tensor) -> Tensor:
    """The state that enters each chunk, `(K, G, d_state, channels)`."""
    state = du.new_zeros(tile.b.shape[1], tile.b.shape[2], *tile.A.shape[2:])
    if tile.chunks.count == 1:
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
    orders = scan_orders(height, width, x.device)
    y = x * D.to(torch.promote_types(x.dtype, torch.float32)).sum(0)
    for part in _parts(*x.shape, A.shape[-1]):
        tile = _load_tile(x, dt, A, B, C, dt_bias, orders, part)
        du = tile.delta * tile.u
        state = _entering_states(tile, du)
        decay, out = torch.empty_like(state), torch.empty_like(tile.u)
        for delta_t, b_t, c_t, du_t, out_t in zip(tile.delta, tile.b, tile.c.mT, du, out, strict=True):
            torch.mul(delta_t, tile.A_log2, out=decay).exp2_()
            state.mul_(decay).addcmul_(b_t, du_t)
            torch.matmul(c_t, state, out=out_t)
        _add_in_raster_order(y[part.images, :, part.channels], tile.chunks.join(out.squeeze(3)), tile.chunks.orders)
    return y.to(x.dtype)


def _add_in_raster_order(target: Tensor, values: Tensor, orders: Tensor) -> None:
    """Adds `(K, images, L, X)` in scan order to `(images, L, X)`."""
    for order, value in zip(orders, values, strict=True):
        target.index_add_(1, order, value)


def backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    height: int, width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, dt, A, B, C, D and dt_bias, given `grad`, the gradient of the output `(batch, L, channels)`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    orders = scan_orders(height, width, x.device)
    grad = grad.to(dtype)
    grad_x = grad * D.to(dtype).sum(0)
    grad_D = torch.einsum("bld,bld->d", grad, x.to(dtype)).expand(NUM_DIRECTIONS, -1)
    grad_dt, grad_B, grad_C, grad_A, grad_bias = (
        torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (dt, B, C, A, dt_bias)
    )
    for part in _parts(*x.shape, A.shape[-1]):
        directions, images, channels = part
        tile = _load_tile(x, dt, A, B, C, dt_bias, orders, part)
        gy = grad[images, :, channels].unsqueeze(2).expand(-1, -1, len(tile.A), -1)
        gu, gdelta, gA, gb, gc = _tile_backward(tile, tile.chunks.cut(gy).unsqueeze(3))

        join = tile.chunks.join
        graw = join((gdelta * torch.sigmoid(tile.raw_dt)).squeeze(3))
        _add_in_raster_order(grad_x[images, :, channels], join(gu.squeeze(3)), tile.chunks.orders)
        for target, values in (
            (grad_dt[images, :, directions, channels], graw),
            (grad_B[images, :, directions], join(gb.squeeze(4))),
            (grad_C[images, :, directions], join(gc.squeeze(4))),
        ):
            for k, order in enumerate(tile.chunks.orders):
                target[:, :, k].index_add_(1, order, values[k])
        grad_A[directions, channels] += gA.mT
        grad_bias[directions, channels] += graw.sum((1, 2))

    inputs = (x, dt, A, B, C, D, dt_bias)
    grads = (grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_bias)
    return tuple(g.to(t.dtype).contiguous() for g, t in zip(grads, inputs, strict=True))


def _tile_backward(tile: _Tile, gy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a tile's u, delta, A, b and c; gy is `(T, K, G, 1, channels)`."""
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
        torch.matmul(states[t + 1], gy[t].mT, out=gc[t])

    # The gradient of the state that leaves each chunk.
    flow = torch.zeros_like(entering)
    if tile.chunks.count > 1:
        for t in reversed(range(steps)):
            torch.mul(tile.delta[t], tile.A_log2, out=decay).exp2_()
            flow.addcmul_(tile.c[t], gy[t]).mul_(decay)
        flow = _across_chunks(tile, flow, reverse=True)

    gdu, gdelta, gb = torch.empty_like(tile.u), torch.empty_like(tile.u), torch.empty_like(tile.b)
    gA = torch.zeros_like(entering)
    for t in reversed(range(steps)):
        flow.addcmul_(tile.c[t], gy[t])
        torch.matmul(tile.b[t].mT, flow, out=gdu[t])
        torch.matmul(flow, du[t].mT, out=gb[t])
        torch.mul(tile.delta[t], tile.A_log2, out=decay).exp2_()
        flow.mul_(decay)
        gradient_of_exponent = states[t].mul_(flow)  # states[t] is not needed any more
        gA.addcmul_(gradient_of_exponent, tile.delta[t])
        torch.sum(gradient_of_exponent.mul_(tile.A), dim=2, keepdim=True, out=gdelta[t])
    gdelta.addcmul_(gdu, tile.u)
    return gdu * tile.delta, gdelta, gA.sum(1), gb, gc
