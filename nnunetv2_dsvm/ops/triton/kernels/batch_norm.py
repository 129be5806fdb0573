"""Triton kernels: what batch normalisation of `(rows, C)` needs beside the convolution that it is fused with."""

import triton
import triton.language as tl

from nnunetv2_dsvm.ops.triton.kernels.conv import load_norm
from nnunetv2_dsvm.ops.triton.kernels.sums import sum_of_rows


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


@triton.jit(do_not_specialize=["programs", "rows"])
def mean_and_variance_kernel(
    x_ptr, sum_ptr, square_ptr, mean_ptr, var_ptr, programs, rows, C, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Of `(rows, C)`, from what `statistics_kernel` left."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    origin = tl.load(x_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    mean = sum_of_rows(sum_ptr, c, programs, C, BLOCK_R, BLOCK_C) / rows
    square = sum_of_rows(square_ptr, c, programs, C, BLOCK_R, BLOCK_C) / rows
    tl.store(mean_ptr + c, origin + mean, mask=c < C)
    tl.store(var_ptr + c, square - mean * mean, mask=c < C)


@triton.jit(do_not_specialize=["rows"])
def norm_gradient_kernel(
    grad_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, eps, sum_ptr, dot_ptr, gweight_ptr, rows, C,
    BATCH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`grad` `(rows, C)`, of norm(x), becomes that of x, in place; the weight's gradient.

    If BATCH, the statistics are those of x and change with it. `sum` and `dot` are the sums over the rows of `grad` and
    of grad * (x - mean).
    """
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    inside = (r < rows) & (c < C)
    grad = tl.load(grad_ptr + r * C + c, mask=inside, other=0.0).to(tl.float32)
    mean, scale, _ = load_norm(mean_ptr, var_ptr, weight_ptr, bias_ptr, eps, c, C)
    square_rstd = 1.0 / (tl.load(var_ptr + c, mask=c < C, other=1.0) + eps)
    dot = tl.load(dot_ptr + c, mask=c < C, other=0.0)
    if BATCH:
        x = tl.load(x_ptr + r * C + c, mask=inside, other=0.0).to(tl.float32)
        total = tl.load(sum_ptr + c, mask=c < C, other=0.0)
        grad -= (total + (x - mean) * (square_rstd * dot)) * (1.0 / rows)
    tl.store(grad_ptr + r * C + c, (scale * grad).to(grad_ptr.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(gweight_ptr + c, dot * tl.sqrt(square_rstd), mask=c < C)
