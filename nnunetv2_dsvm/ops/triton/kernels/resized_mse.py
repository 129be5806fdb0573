"""Triton kernel: the squared error of a bilinearly enlarged map to another, and its gradient. Arithmetic in fp32.

A cell is what lies between four neighbouring pixels of the small map: cell (i, j) reaches from pixel (i, j) to the one
below and to the right. It holds SY x SX pixels of the large map, in its rows from SY * i + SY // 2 on. In every cell
row k of them lies at (k + 1/2) / SY between the cell's two rows for an even SY, at k / SY for an odd one, which is
torch's `align_corners=False`. In cells that reach over the border, -1 and h - 1, both rows are the border's. Columns
likewise.

A pixel's gradient comes from the four cells around it, its value from the quarters of them that are nearest to it: from
the large map's pixels that lie in it. A program takes rows of both cells' columns at once, (pixels, columns, channels).
"""

import triton
import triton.language as tl


@triton.jit
def _at_columns(row, left, right, lx, C, inside, SX: tl.constexpr):
    """A row of the small map, at the large map's columns."""
    at_left = tl.load(row + left * C, mask=inside, other=0.0).to(tl.float32)
    if SX > 1:  # scale 1 has no pixel between two others
        at_left += lx * (tl.load(row + right * C, mask=inside, other=0.0).to(tl.float32) - at_left)
    return at_left


@triton.jit
def _weight(share, at_border):
    """A pixel's weight along one axis in a cell; at the border it stands for both of the cell's."""
    return tl.where(at_border, 1.0, share)


@triton.jit
def _rows(
    teachers, upper, lower, i, h, row_length, inside, gradient, value,
    FIRST: tl.constexpr, END: tl.constexpr, BELOW: tl.constexpr, SY: tl.constexpr, GRAD: tl.constexpr,
    VALUE: tl.constexpr,
):  # fmt: skip
    """`gradient` and `value` plus what rows FIRST to END of the cells above or below the pixels of row i add to them.

    `upper` and `lower` are the cells' rows of the small map; weights along columns are missing in both.
    """
    HALF: tl.constexpr = 0.0 if SY % 2 else 0.5
    border = i == (h - 1 if BELOW else 0)
    first_y = (i - 1 + BELOW) * SY + SY // 2
    step = lower - upper
    for k in range(FIRST, END):
        ly = (k + HALF) * (1.0 / SY)
        y = first_y + k
        inside_y = (y >= 0) & (y < h * SY)
        teacher = tl.load(teachers + y * row_length, mask=inside & inside_y, other=0.0).to(tl.float32)
        difference = upper + ly * step - teacher
        if GRAD:
            gradient += tl.where(inside_y, _weight(1.0 - ly if BELOW else ly, border), 0.0) * difference
        if VALUE:
            value += difference * difference
    return gradient, value


@triton.jit
def resized_mse_kernel(
    student_ptr, teacher_ptr, upstream_ptr, gradient_ptr, values_ptr, sums_ptr,
    pixels, h, w, C, scale, values_stride, sums_stride,
    SY: tl.constexpr, SX: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The squared error and its gradient, of each what there is a pointer for.

    The student is `(pixels, C)`, its pixels those of images of h x w; the teacher has SY * SX times as many.

    values: `scale` times the squared error, in one part for each program, `(programs, programs)` by pixels and
        channels, for a deterministic sum afterwards.
    gradient: its derivative by the student, times `upstream` if there is that, `(pixels, C)`.
    sums: that, in parts of the sum over pixels, `(programs, C)`.
    """
    GRAD: tl.constexpr = gradient_ptr is not None
    VALUE: tl.constexpr = values_ptr is not None
    # The columns of both cells, or those in the pixel. An odd scale's first one coincides with the pixel to the left.
    FIRST_OWN: tl.constexpr = SX - SX // 2
    FIRST_X: tl.constexpr = SX % 2 if GRAD else FIRST_OWN
    COLUMNS: tl.constexpr = 2 * SX - SX % 2 if GRAD else SX
    HALF_X: tl.constexpr = 0.0 if SX % 2 else 0.5
    OWN_Y: tl.constexpr = SY - SY // 2
    tl.static_assert(COLUMNS <= BLOCK_K)
    k = FIRST_X + tl.arange(0, BLOCK_K)[None, :, None]
    is_right = k >= SX
    own = (k >= FIRST_OWN) & (k < FIRST_OWN + SX)
    lx = (tl.where(is_right, k - SX, k) + HALF_X) * (1.0 / SX)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    value = tl.zeros([BLOCK_P, BLOCK_K, BLOCK_C], dtype=tl.float32)
    sums = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(pixels, BLOCK_P), tl.num_programs(0)):
        of_rows = block * BLOCK_P + tl.arange(0, BLOCK_P)
        p = of_rows[:, None, None]
        i, j = p // w % h, p % w
        x = (j - 1) * SX + SX // 2 + k
        inside_x = (x >= 0) & (x < w * SX) & (k < FIRST_X + COLUMNS)
        inside = (p < pixels) & (c[None, None, :] < C) & inside_x
        cell_x = tl.where(is_right, j, j - 1)
        left, right = tl.maximum(cell_x, 0), tl.minimum(cell_x + 1, w - 1)
        first = (p // w // h).to(tl.int64) * (h * w * C)  # of an image; within one, 32 bits are enough
        students = student_ptr + first + c[None, None, :]
        teachers = teacher_ptr + first * (SY * SX) + c[None, None, :] + x * C
        row_length = w * SX * C
        gradient = tl.zeros([BLOCK_P, BLOCK_K, BLOCK_C], dtype=tl.float32)
        here = _at_columns(students + i * w * C, left, right, lx, C, inside, SX)
        if SY > 1:
            above = _at_columns(students + tl.maximum(i - 1, 0) * w * C, left, right, lx, C, inside, SX)
            if GRAD:
                gradient, value = _rows(
                    teachers, above, here, i, h, row_length, inside, gradient, value, SY % 2, OWN_Y, 0, SY, GRAD, False
                )
            gradient, value = _rows(
                teachers, above, here, i, h, row_length, inside, gradient, value, OWN_Y, SY, 0, SY, GRAD, VALUE
            )
            below = _at_columns(students + tl.minimum(i + 1, h - 1) * w * C, left, right, lx, C, inside, SX)
        else:
            below = here
        gradient, value = _rows(
            teachers, here, below, i, h, row_length, inside, gradient, value, 0, OWN_Y, 1, SY, GRAD, VALUE
        )
        if GRAD:
            if SY > 1:
                gradient, value = _rows(
                    teachers, here, below, i, h, row_length, inside, gradient, value, OWN_Y, SY, 1, SY, GRAD, False
                )
            at_border = j == tl.where(is_right, w - 1, 0)
            weight = tl.where(inside_x, _weight(tl.where(is_right, 1.0 - lx, lx), at_border), 0.0)
            of_pixels = tl.sum(gradient * weight, axis=1) * (2.0 * scale)
            if upstream_ptr is not None:
                of_pixels *= tl.load(upstream_ptr).to(tl.float32)
            sums += of_pixels
            places = gradient_ptr + of_rows.to(tl.int64)[:, None] * C + c[None, :]
            mask = (of_rows < pixels)[:, None] & (c < C)[None, :]
            tl.store(places, of_pixels.to(gradient_ptr.dtype.element_ty), mask=mask)
    if VALUE:
        total = tl.sum(tl.reshape(tl.where(own, value, 0.0), [BLOCK_P * BLOCK_K * BLOCK_C]), axis=0)
        tl.store(values_ptr + tl.program_id(0) * values_stride + tl.program_id(1), scale * total)
    if sums_ptr is not None:
        tl.store(sums_ptr + tl.program_id(0) * sums_stride + c, tl.sum(sums, axis=0), mask=c < C)
