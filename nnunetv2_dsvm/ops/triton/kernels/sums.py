"""Triton kernels: sums of what programs, images and chunks left of the parameters' gradients, several in one launch."""

import triton
import triton.language as tl


@triton.jit
def sum_of_rows(parts_ptr, c, rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """The sum of `(rows, columns)` over its rows, of the columns c."""
    total = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    for start in range(0, rows, BLOCK_R):
        r = (start + tl.arange(0, BLOCK_R)[:, None]).to(tl.int64)
        total += tl.load(parts_ptr + r * columns + c[None, :], mask=(r < rows) & (c[None, :] < columns), other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def sums_of_tiles(tiles):
    """The sums of 2 ** n tiles over their second axis, `(rows, tiles)`, to be stored together."""
    TILES: tl.constexpr = len(tiles)
    ROWS: tl.constexpr = tiles[0].shape[0]
    for _ in tl.static_range(4):  # up to 16 tiles
        if len(tiles) > 1:
            pairs = ()
            for i in tl.static_range(len(tiles) // 2):
                pairs += (tl.join(tiles[i], tiles[i + len(tiles) // 2]),)
            tiles = pairs
    return tl.reshape(tl.sum(tiles[0], axis=1), (ROWS, TILES))


@triton.jit(do_not_specialize=["rows", "first_programs"])
def sum_rows_kernel(
    first_ptr, second_ptr, first_out_ptr, second_out_ptr, rows, first_columns, second_columns, first_programs,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sums of two `(rows, columns)` over their rows: of a norm's, or a convolution's, weight and bias.

    The first `first_programs` make that of the first.
    """
    program = tl.program_id(0)
    if program < first_programs:
        c = program * BLOCK_C + tl.arange(0, BLOCK_C)
        total = sum_of_rows(first_ptr, c, rows, first_columns, BLOCK_R, BLOCK_C)
        tl.store(first_out_ptr + c, total.to(first_out_ptr.dtype.element_ty), mask=c < first_columns)
    else:
        c = (program - first_programs) * BLOCK_C + tl.arange(0, BLOCK_C)
        total = sum_of_rows(second_ptr, c, rows, second_columns, BLOCK_R, BLOCK_C)
        tl.store(second_out_ptr + c, total.to(second_out_ptr.dtype.element_ty), mask=c < second_columns)


@triton.jit(do_not_specialize=["rows", "dot_rows", "K", "N", "a_programs", "bias_programs"])
def sum_scan_kernel(
    ga_ptr, gbias_ptr, dot_ptr, a_out_ptr, bias_out_ptr, d_out_ptr, rows, dot_rows, channels, K, N,
    a_programs, bias_programs,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, DOT_BLOCK_R: tl.constexpr, DOT_BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A scan's sums over rows: ga `(rows, K, N, D)` to `(K, D, N)`, gbias `(rows, K, D)`, dot `(dot_rows, D)`.

    The first `a_programs` make that of ga, the next `bias_programs` that of gbias, the others that of dot, which is
    stored for each of the K directions.
    """
    program = tl.program_id(0)
    wide, tall = tl.arange(0, BLOCK_C), tl.arange(0, DOT_BLOCK_C)
    if program < a_programs:
        of_a = program * BLOCK_C + wide
        row = of_a // channels  # (k, n)
        out = a_out_ptr + (row // N * channels + of_a % channels) * N + row % N
        total_a = sum_of_rows(ga_ptr, of_a, rows, K * N * channels, BLOCK_R, BLOCK_C)
        tl.store(out, total_a, mask=of_a < K * N * channels)
    elif program < a_programs + bias_programs:
        of_bias = (program - a_programs) * BLOCK_C + wide
        total_bias = sum_of_rows(gbias_ptr, of_bias, rows, K * channels, BLOCK_R, BLOCK_C)
        tl.store(bias_out_ptr + of_bias, total_bias, mask=of_bias < K * channels)
    else:
        of_dot = (program - a_programs - bias_programs) * DOT_BLOCK_C + tall
        total_dot = sum_of_rows(dot_ptr, of_dot, dot_rows, channels, DOT_BLOCK_R, DOT_BLOCK_C)
        for k in range(K):
            tl.store(d_out_ptr + k * channels + of_dot, total_dot, mask=of_dot < channels)


@triton.jit(do_not_specialize=["rows"])  # a single row would be a constant, which has no methods
def sum_blocks_kernel(
    first_ptr, second_ptr, first_out_ptr, second_out_ptr, rows, columns, N, blocks, stride_out, stride_k,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sums of two `(blocks, rows, K, N)` over blocks into `(rows, K, N)` of any row and direction stride."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    column = tl.arange(0, BLOCK_C)[None, :]
    inside = (r < rows) & (column < columns)
    first, second = inside & (tl.program_id(1) == 0), inside & (tl.program_id(1) == 1)
    total = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    for block in range(blocks):
        at = (block * rows.to(tl.int64) + r) * columns + column
        total += tl.load(first_ptr + at, mask=first, other=0.0) + tl.load(second_ptr + at, mask=second, other=0.0)
    place = r * stride_out + (column // N) * stride_k + column % N
    tl.store(first_out_ptr + place, total.to(first_out_ptr.dtype.element_ty), mask=first)
    tl.store(second_out_ptr + place, total.to(second_out_ptr.dtype.element_ty), mask=second)
