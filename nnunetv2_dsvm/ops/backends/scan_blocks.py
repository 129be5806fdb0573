"""The steps of a scan in plain torch, a block at a time, in both directions of time.

The steps of all directions are taken together: whatever does not depend on the step before (decays, inputs, outputs) is
one operation on a block of steps, and what remains is one multiply-add a step. On a CPU that step is too small for
torch to share among threads, and the blocks are large: threads meet a few times a block and not several times a step,
which made processes that share cores wait for each other.

Where a step would be too small for the device, the L tokens of a direction are cut into chunks that are scanned side by
side: a first pass from a zero state gives each chunk's own contribution to its last state, a short recurrence over the
chunks turns these into the state that enters each chunk, and a second pass from those states gives the outputs.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.scan_inputs import ScanInputs
from nnunetv2_dsvm.ops.scan_order import grid_orders


class Limits(NamedTuple):
    """States (tokens * channels * d_state) that are computed together, and when chunks are worth their first pass."""

    step: int  # chunks are cut until a step has so many
    block: int
    tile: int  # whose inputs are loaded together
    # Fewer do not save what the first pass costs: a CPU takes 32 steps of 1,024 states in the time of one step of
    # 32,768 states and a second look at them.
    least_chunks: int = 32


# A CPU: torch shares no operation of up to 2^15 elements among threads; a block's arrays stay in the cores' caches.
# Elsewhere each operation is a launch, and fewer are faster.
_CPU_LIMITS = Limits(step=2**15, block=2**20, tile=2**23)
_OTHER_LIMITS = Limits(step=2**22, block=2**24, tile=2**24)


class Block(NamedTuple):
    """The inputs of n steps in scan order; G = images * chunks."""

    tokens: Tensor  # (n, K, G): rows of x
    u: Tensor  # (n, K, G, 1, channels)
    du: Tensor  # (n, K, G, 1, channels): delta * u
    raw_dt: Tensor  # (n, K, G, 1, channels), before softplus, bias added
    delta: Tensor  # (n, K, G, 1, channels), zero beyond the last token: such a step leaves the state as it is
    b: Tensor  # (n, K, G, d_state, 1)
    c: Tensor  # (n, K, G, d_state, 1), zero beyond the last token, for no output


class ScanBlocks:
    """One call: its inputs as rows of tokens, how its steps are cut, and the arrays that the blocks share.

    Attributes:
        directions: K.
        walks: `(K, L)`, as `grid_orders` gives them.
        steps: T, of a chunk.
        chunks: of each direction of each image.
        starts: the first step of each block.
        tile: steps whose inputs are loaded together, whole blocks.
        decay: `(block, K, G, d_state, channels)`, what a step leaves of the state before it.
        states: `(block + 1, K, G, d_state, channels)`: the state that enters the block, then that after each step.
    """

    def __init__(self, inputs: ScanInputs, limits: Limits | None = None) -> None:
        x, dt, A, B, C, _, dt_bias, sizes, walks = inputs
        self.batch, _, channels, d_state, self.directions, _ = inputs.shape
        self.tokens = x.shape[1]  # of a grid
        self.walks = grid_orders(sizes, x.device, walks)
        length = self.walks.shape[1]  # of a walk, which visits all of them or a part
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self.x, self.dt, self.B, self.C = token_rows(x), _direction_rows(dt), _direction_rows(B), _direction_rows(C)
        self.A = A.to(self.dtype).mT.contiguous().unsqueeze(1)  # (K, 1, d_state, channels)
        self.A_log2 = self.A / math.log(2)  # exp2 is faster than exp on a CPU, where its result underflows 100 times
        self.dt_bias = dt_bias.to(self.dtype).unsqueeze(1)

        if limits is None:
            limits = _CPU_LIMITS if x.device.type == "cpu" else _OTHER_LIMITS
        per_token = self.batch * self.directions * d_state * channels
        chunks = min(math.ceil(math.sqrt(length)), limits.step // per_token)
        self.steps = math.ceil(length / (chunks if chunks >= limits.least_chunks else 1))
        self.chunks = math.ceil(length / self.steps)
        self.padding = self.chunks * self.steps - length
        orders = F.pad(self.walks, (0, self.padding))  # beyond the last token: any token
        self.orders = orders.view(self.directions, self.chunks, self.steps).permute(2, 0, 1)

        block = max(1, min(self.steps, limits.block // (per_token * self.chunks)))
        self.starts = range(0, self.steps, block)
        self.tile = block * max(1, limits.tile // (per_token * self.chunks * block))
        self._loaded: tuple[int, Block] | None = None
        shape = (self.directions, self.batch * self.chunks, d_state, channels)
        self.decay = torch.empty(block, *shape, dtype=self.dtype, device=x.device)
        self.states = torch.empty(block + 1, *shape, dtype=self.dtype, device=x.device)

    def load(self, start: int) -> Block:
        """The block that begins at step `start`, of the tile that was loaded last or of another."""
        first = start - start % self.tile
        if self._loaded is None or self._loaded[0] != first:
            self._loaded = None  # never two tiles in memory
            self._loaded = first, self._load_tile(first)
        within = slice(start - first, start - first + len(self.decay))
        return Block(*(t[within] for t in self._loaded[1]))

    def _load_tile(self, start: int) -> Block:
        orders = self.orders[start : start + self.tile].unsqueeze(2)
        images = torch.arange(self.batch, device=orders.device).view(-1, 1) * self.tokens
        directions = torch.arange(self.directions, device=orders.device).view(-1, 1)
        tokens = (orders + images).flatten(2)
        rows = tokens + directions * (self.batch * self.tokens)
        raw_dt = self._gather(self.dt, rows) + self.dt_bias
        delta, c = F.softplus(raw_dt), self._gather(self.C, rows)
        for t in (delta, c):
            self._clear_padding(t, start)
        u = self._gather(self.x, tokens)
        return Block(
            tokens=tokens,
            u=u.unsqueeze(3),
            du=(delta * u).unsqueeze(3),
            raw_dt=raw_dt.unsqueeze(3),
            delta=delta.unsqueeze(3),
            b=self._gather(self.B, rows).unsqueeze(4),
            c=c.unsqueeze(4),
        )

    def load_gradient(self, grad: Tensor, block: Block, start: int) -> Tensor:
        """The rows of `grad`, the gradient of the output, in the order of the block: `(n, K, G, 1, channels)`."""
        gy = self._gather(grad, block.tokens)
        self._clear_padding(gy, start)
        return gy.unsqueeze(3)

    def _gather(self, rows: Tensor, index: Tensor) -> Tensor:
        return rows.index_select(0, index.flatten()).to(self.dtype).view(*index.shape, -1)

    def _clear_padding(self, t: Tensor, start: int) -> None:
        """Zeros `(n, K, G, X)` where a step is beyond the last token, which is in the last chunk."""
        first = self.steps - self.padding - start
        if first < len(t):
            t.unflatten(2, (-1, self.chunks))[max(first, 0) :, :, :, -1] = 0

    def advance(self, block: Block) -> None:
        """Fills `decay` and `states` for the block, from the state in `states[0]`."""
        n = len(block.u)
        torch.mul(block.delta, self.A_log2, out=self.decay[:n]).exp2_()
        torch.mul(block.b, block.du, out=self.states[1 : n + 1])
        for before, decay, after in zip(self.states[:n], self.decay, self.states[1:], strict=False):
            after.addcmul_(decay, before)

    def enter(self) -> None:
        """Puts into `states[0]` the state that enters each chunk."""
        self.states[0] = 0
        if self.chunks == 1:
            return
        total = torch.zeros_like(self.states[0, :, :, :1])
        for start in self.starts:
            block = self.load(start)
            self.advance(block)
            self.states[0] = self.states[len(block.u)]
            total += block.delta.sum(0)
        self.states[0] = self.across_chunks(self.states[0], total, reverse=False)

    def across_chunks(self, own: Tensor, total_delta: Tensor, reverse: bool) -> Tensor:
        """What enters each chunk, given what each chunk adds by itself: `(K, G, d_state, channels)` both ways."""
        decay = torch.exp2(total_delta * self.A_log2).unflatten(1, (-1, self.chunks))
        own = own.unflatten(1, (-1, self.chunks))
        initial = torch.zeros_like(own)
        for i in range(self.chunks - 2, -1, -1) if reverse else range(1, self.chunks):
            before = i + 1 if reverse else i - 1
            torch.addcmul(own[:, :, before], decay[:, :, before], initial[:, :, before], out=initial[:, :, i])
        return initial.flatten(1, 2)


def token_rows(t: Tensor) -> Tensor:
    """`(images, L, X)` to `(images * L, X)`."""
    return t.reshape(-1, t.shape[-1])


def _direction_rows(t: Tensor) -> Tensor:
    """`(images, L, K, X)` to `(K * images * L, X)`; no copy where the directions lie apart, as a batched product's."""
    return t.permute(2, 0, 1, 3).reshape(-1, t.shape[-1])
