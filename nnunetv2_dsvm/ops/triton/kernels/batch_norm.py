"""Triton kernels: what batch normalisation of `(rows, C)` needs beside the convolution that it is fused with."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "rows_each"])
def statistics_kernel(
    x_ptr, sum_ptr, square_ptr, rows, C, rows_each, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Of each program's rows, `(programs, C)`, the sums of x - x_0 and of its square, x_0 being the first row of all.

    Without x_0, which is about as far from the mean as others are, the squares of a large mean would hide the variance.
    """
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    origin = tl.load(x_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    squares = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    start = tl.program_id(0) * rows_each
    end = tl.minimum(start + rows_each, rows)
    for first in range(start, end, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)[:, None]
        inside = (r < end) & (c < C)
        x = tl.load(x_ptr + r.to(tl.int64) * C + c, mask=inside, other=0.0).to(tl.float32)
        x = tl.where(inside, x - origin, 0.0)
        total += x
        squares += x * x
    place = tl.program_id(0).to(tl.int64) * C + c
    tl.store(sum_ptr + place, tl.sum(total, axis=0, keep_dims=True), mask=c < C)
    tl.store(square_ptr + place, tl.sum(squares, axis=0, keep_dims=True), mask=c < C)


@triton.jit(do_not_specialize=["rows"])
def input_gradient_kernel(
    grad_ptr, x_ptr, mean_ptr, a_ptr, b_ptr, d_ptr, rows, C, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """`grad` `(rows, C)` becomes a * grad + b * (x - mean) + d, each but x of one value a channel."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    inside = (r < rows) & (c < C)
    grad = tl.load(grad_ptr + r * C + c, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + r * C + c, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(mean_ptr + c, mask=c < C, other=0.0)
    a = tl.load(a_ptr + c, mask=c < C, other=0.0)
    b = tl.load(b_ptr + c, mask=c < C, other=0.0)
    d = tl.load(d_ptr + c, mask=c < C, other=0.0)
    out = a * grad + b * (x - mean) + d
    tl.store(grad_ptr + r * C + c, out.to(grad_ptr.dtype.element_ty), mask=inside)
