"""Triton kernel: the squared error of a bilinearly enlarged map to another, and its gradient. Arithmetic in fp32.

A cell is what lies between four neighbouring pixels of the small map: cell (i, j) reaches from pixel (i, j) to the one
below and to the right. It holds SY x SX pixels of the large map, in its rows from SY * i + SY // 2 on. In every cell
row k of them lies at (k + 1/2) / SY between the cell's two rows for an even SY, at k / SY for an odd one, which is
torch's `align_corners=False`. In cells that reach over the border, -1 and h - 1, both rows are the border's. Columns
likewise.

A pixel's gradient comes from the four cells around it, its value from the quarters of them that are nearest to it: from
the large map's pixels that lie in it. A program walks down some columns of the small map, cell by cell: what a cell's
rows give to the pixels below it waits for the next cell. Of columns it takes those of the cells on both sides, so that
each of the large map's pixels is read twice, (columns of the small map, of the large one, channels) at once.
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
    teachers, upper, step, cell, h, row_length, inside, counts, to_upper, to_lower, value,
    FIRST: tl.constexpr, END: tl.constexpr, SY: tl.constexpr, GRAD: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """Plus what rows FIRST to END of a row of cells give to the pixels above and below, and to the value if it counts.

    `upper` is the small map's row above, `step` the way to the one below; weights along columns are missing in all.
    """
    HALF: tl.constexpr = 0.0 if SY % 2 else 0.5
    squares = tl.zeros_like(value)
    for k in range(FIRST, END):
        ly = (k + HALF) * (1.0 / SY)
        y = cell * SY + SY // 2 + k
        inside_y = (y >= 0) & (y < h * SY)
        if not GRAD:
            inside_y = inside_y & counts
        teacher = tl.load(teachers + y * row_length, mask=inside & inside_y, other=0.0).to(tl.float32)
        difference = (upper if SY == 1 else upper + ly * step) - teacher
        if GRAD:
            to_upper += tl.where(inside_y, _weight(1.0 - ly, cell == h - 1), 0.0) * difference
            to_lower += tl.where(inside_y, _weight(ly, cell == -1), 0.0) * difference
        if VALUE:
            squares += difference * difference
    if VALUE:
        value += tl.where(counts, 1.0, 0.0) * squares
    return to_upper, to_lower, value


@triton.jit(
    do_not_specialize=["columns", "h", "w", "strip", "values_stride", "sums_stride"],
    do_not_specialize_on_alignment=["values_ptr", "sums_ptr"],
)
def resized_mse_kernel(
    student_ptr, teacher_ptr, upstream_ptr, gradient_ptr, values_ptr, sums_ptr,
    columns, h, w, C, strip, scale, values_stride, sums_stride,
    SY: tl.constexpr, SX: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The squared error and its gradient, of each what there is a pointer for.

    The student is `(batch, h, w, C)`, the teacher SY and SX times as high and wide. `columns` counts the student's of
    `strip` rows each, or what is left of an image.

    values: `scale` times the squared error, in one part for each program, `(programs, programs)` by columns and
        channels, for a deterministic sum afterwards.
    gradient: its derivative by the student, times `upstream` if there is that, of the student's shape.
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
    lx = (tl.where(is_right, k - SX, k) + HALF_X) * (1.0 / SX)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P))[:, None, None]
    strips = tl.cdiv(h, strip)
    j, first_row, image = p % w, p // w % strips * strip, (p // w // strips).to(tl.int64)
    x = (j - 1) * SX + SX // 2 + k
    inside_x = (x >= 0) & (x < w * SX) & (k < FIRST_X + COLUMNS)
    inside = (p < columns) & (c[None, None, :] < C) & inside_x
    left, right = tl.maximum(tl.where(is_right, j, j - 1), 0), tl.minimum(tl.where(is_right, j + 1, j), w - 1)
    weight = tl.where(inside_x, _weight(tl.where(is_right, 1.0 - lx, lx), j == tl.where(is_right, w - 1, 0)), 0.0)
    if upstream_ptr is not None:
        weight *= tl.load(upstream_ptr).to(tl.float32)
    # Within an image 32 bits are enough.
    students = student_ptr + image * (h * w * C) + c[None, None, :]
    teachers = teacher_ptr + image * (h * w * C) * (SY * SX) + c[None, None, :] + x * C
    to_upper = tl.zeros([BLOCK_P, BLOCK_K, BLOCK_C], dtype=tl.float32)
    value = tl.zeros([BLOCK_P, BLOCK_K, BLOCK_C], dtype=tl.float32)
    sums = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    upper = tl.zeros([BLOCK_P, BLOCK_K, BLOCK_C], dtype=tl.float32)
    if SY > 1:
        upper += _at_columns(students + tl.maximum(first_row - 1, 0) * w * C, left, right, lx, C, inside, SX)
    for n in range(1 if SY == 1 else 0, strip + 1):
        cell = first_row + n - 1
        lower = _at_columns(
            students + tl.minimum(cell + (0 if SY == 1 else 1), h - 1) * w * C, left, right, lx, C, inside, SX
        )
        if SY == 1:
            upper = lower
        step = lower - upper
        to_lower = tl.zeros([BLOCK_P, BLOCK_K, BLOCK_C], dtype=tl.float32)
        counts = (n > 0) & (cell < h)
        to_upper, to_lower, value = _rows(
            teachers, upper, step, cell, h, w * SX * C, inside, counts, to_upper, to_lower, value,
            0, OWN_Y, SY, GRAD, VALUE,
        )  # fmt: skip
        to_upper, to_lower, value = _rows(
            teachers, upper, step, cell, h, w * SX * C, inside, (n < strip) & (cell + 1 < h), to_upper, to_lower,
            value, OWN_Y, SY, SY, GRAD, VALUE,
        )  # fmt: skip
        if GRAD:
            mask = (counts & (p < columns)).reshape(BLOCK_P, 1) & (c < C)[None, :]
            of_pixels = tl.where(mask, tl.sum(to_upper * weight, axis=1) * (2.0 * scale), 0.0)
            sums += of_pixels
            pixel = ((image * h + cell) * w + j).reshape(BLOCK_P, 1)
            places = gradient_ptr + pixel * C + c[None, :]
            tl.store(places, of_pixels.to(gradient_ptr.dtype.element_ty), mask=mask)
        to_upper, upper = to_lower, lower
    if VALUE:
        own = (k >= FIRST_OWN) & (k < FIRST_OWN + SX)
        total = tl.sum(tl.reshape(tl.where(own, value, 0.0), [BLOCK_P * BLOCK_K * BLOCK_C]), axis=0)
        tl.store(values_ptr + tl.program_id(0) * values_stride + tl.program_id(1), scale * total)
    if sums_ptr is not None:
        tl.store(sums_ptr + tl.program_id(0) * sums_stride + c, tl.sum(sums, axis=0), mask=c < C)
