"""Launches of the sums after backward kernels: each leaves parts, so that every run adds them in the same order."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_inputs import token_strides
from nnunetv2_dsvm.ops.side_branch import later
from nnunetv2_dsvm.ops.triton.runtime import next_power_of_2

_WIDE = (32, 128)  # rows x columns, of sums with columns enough for many programs
_WARPS = 8


def _tile(rows: int) -> tuple[int, int]:
    """Rows x columns of a tile: up to 1024 rows at once, and columns for 32 bytes of a row or more.

    A program walks down its columns and waits for memory at each step. Of few columns there are few programs: narrow
    tiles make more of them, tall ones fewer steps. Lanes beyond the last row would only hold up other kernels.
    """
    block_r = min(1024, next_power_of_2(rows))
    return block_r, max(8, min(128, 4096 // block_r))


def sum_rows(
    first: Tensor, second: Tensor, like_first: Tensor, like_second: Tensor, *, put_off: bool = True
) -> tuple[Tensor, Tensor]:
    """The sums of two tensors over their rows, in shape and type of the last two; one launch, put off as `later`."""
    from nnunetv2_dsvm.ops.triton.kernels.sums import sum_rows_kernel

    sums = tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (like_first, like_second))
    columns = [t.numel() for t in sums]
    block_r, block_c = _tile(first.shape[0])
    of_first, of_second = (math.ceil(n / block_c) for n in columns)

    def launch() -> None:
        sum_rows_kernel[(of_first + of_second,)](
            first, second, *sums, first.shape[0], *columns, of_first,
            BLOCK_R=block_r, BLOCK_C=block_c, num_warps=_WARPS,
        )  # fmt: skip

    if put_off:
        later(launch, sums[0])
    else:
        launch()
    return sums[0], sums[1]


def sum_scan(A: Tensor, dt_bias: Tensor, dot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of A `(K, channels, N)`, dt_bias and D, each `(K, channels)`; one launch, as `later`.

    Args:
        A, dt_bias: of each sequence, `(sequences, K, N, channels)` and `(sequences, K, channels)`.
        dot: of D, of some tokens each, `(parts, channels)`: that of all directions.
    """
    from nnunetv2_dsvm.ops.triton.kernels.sums import sum_scan_kernel

    sequences, directions, d_state, channels = A.shape
    sums = A.new_empty(directions, channels, d_state), torch.empty_like(dt_bias[0]), torch.empty_like(dt_bias[0])
    of_A, of_bias = (math.ceil(t[0].numel() / _WIDE[1]) for t in (A, dt_bias))
    dot_r, dot_c = _tile(dot.shape[0])

    def launch() -> None:
        sum_scan_kernel[(of_A + of_bias + math.ceil(channels / dot_c),)](
            A, dt_bias, dot, *sums, sequences, dot.shape[0], channels, directions, d_state, of_A, of_bias,
            BLOCK_R=_WIDE[0], BLOCK_C=_WIDE[1], DOT_BLOCK_R=dot_r, DOT_BLOCK_C=dot_c, num_warps=_WARPS,
        )  # fmt: skip

    later(launch, sums[0])
    return sums


def sum_blocks(first: Tensor, second: Tensor, first_out: Tensor, second_out: Tensor) -> None:
    """The sums of two `(blocks, batch, L, K, N)` over blocks into two `(batch, L, K, N)` of equal strides."""
    from nnunetv2_dsvm.ops.triton.kernels.sums import sum_blocks_kernel

    blocks, batch, length, directions, d_state = first.shape
    rows, columns = batch * length, directions * d_state
    block_c = next_power_of_2(columns)
    block_r = max(1, 1024 // block_c)
    sum_blocks_kernel[(math.ceil(rows / block_r), 2)](
        first, second, first_out, second_out, rows, columns, d_state, blocks,
        *token_strides(first_out), first_out.stride(2), BLOCK_R=block_r, BLOCK_C=block_c,
    )  # fmt: skip
