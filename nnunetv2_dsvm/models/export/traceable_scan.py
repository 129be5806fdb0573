"""The four-direction scan of `ops`, written so that torch.export and ONNX can trace it for any image size.

The backends of `ops` cannot be exported: their operators are this package's own, and their loops have a fixed number of
steps. Here the loops are torch's higher-order operator `scan` (ONNX: `Scan`), of which a program holds one step only,
and every other operation is torch's own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS


def scan_by_rows(
    x: Tensor, dt: Sequence[Tensor], A: Tensor, B: Sequence[Tensor], C: Sequence[Tensor], D: Tensor
) -> Tensor:
    """SS2D's scan of images, as `nnunetv2_dsvm.ops.ss2d_scan` defines it; for inference.

    Each direction's H * W tokens, in its order, are cut into H chunks of W. As in `ops.torch_chunked`, all chunks go
    through their W tokens at once from a zero state, a loop over the H chunks gives the state that enters each, and a
    second pass from those gives the outputs: 2 W + H steps instead of H * W.

    Args:
        x: `(batch, H, W, d_inner)`, float32 or float64, as all others.
        dt: step sizes after bias and softplus, `(batch, H, W, d_inner)` for each of the K = 4 directions.
        A: `(K, d_inner, N)`, negative.
        B, C: `(batch, H, W, N)` for each direction.
        D: `(K, d_inner)`.

    Returns:
        `(batch, H, W, d_inner)`, the sum over the directions.
    """
    batch, height, _width, channels = x.shape
    d_state = A.shape[-1]
    # One tensor of all that a step reads, so that it is brought into the order of the scan once.
    tokens = [torch.cat([dt[k], dt[k] * x, B[k], C[k]], dim=-1) for k in range(NUM_DIRECTIONS)]
    tokens = [_in_order(t, k) for k, t in enumerate(tokens)]
    # (step, chunk, K, batch, ...). clone and not contiguous, which would look at the sizes and fix them.
    steps = torch.stack(tokens).permute(3, 2, 0, 1, 4).clone(memory_format=torch.contiguous_format)
    delta, delta_x, b, c = steps.split([channels, channels, d_state, d_state], dim=-1)
    A = A.mT.clone(memory_format=torch.contiguous_format).unsqueeze(1)  # (K, 1, N, d_inner)

    scan = torch.ops.higher_order.scan
    nothing = x.new_zeros(height, NUM_DIRECTIONS, batch, d_state, channels)
    (own,) = scan(_advance, (nothing,), (delta, delta_x, b), (A,))
    decay = torch.exp(delta.sum(0).unsqueeze(-2) * A)
    _, initial_state = scan(_pass_on, (x.new_zeros(NUM_DIRECTIONS, batch, d_state, channels),), (decay, own), ())
    _, y = scan(_advance_and_read, (initial_state,), (delta, delta_x, b, c), (A,))
    y = y.permute(2, 3, 1, 0, 4)  # (K, batch, chunk, step, d_inner)
    return x * D.sum(0) + sum(_back_in_place(y[k], k) for k in range(NUM_DIRECTIONS))


def _in_order(t: Tensor, direction: int) -> Tensor:
    """The tokens `(batch, H, W, X)` in a direction's order (see `ops.scan_order`), in H chunks of W."""
    if direction % 2:
        t = t.transpose(1, 2).reshape(t.shape)
    return t.flip(1, 2) if direction >= 2 else t


def _back_in_place(t: Tensor, direction: int) -> Tensor:
    """The inverse of `_in_order`."""
    batch, height, width, channels = t.shape
    if direction >= 2:
        t = t.flip(1, 2)
    return t.reshape(batch, width, height, channels).transpose(1, 2) if direction % 2 else t


# The bodies of the loops. States are (..., N, d_inner).


def _advance(state: Tensor, delta: Tensor, delta_x: Tensor, b: Tensor, A: Tensor) -> list[Tensor]:
    return [torch.exp(delta.unsqueeze(-2) * A) * state + b.unsqueeze(-1) * delta_x.unsqueeze(-2)]


def _pass_on(state: Tensor, decay: Tensor, own: Tensor) -> list[Tensor]:
    """The state after a chunk, and the one before it: a copy, for a body must not return what it was given."""
    return [decay * state + own, state.clone()]


def _advance_and_read(state: Tensor, delta: Tensor, delta_x: Tensor, b: Tensor, c: Tensor, A: Tensor) -> list[Tensor]:
    (state,) = _advance(state, delta, delta_x, b, A)
    return [state, (c.unsqueeze(-1) * state).sum(-2)]
