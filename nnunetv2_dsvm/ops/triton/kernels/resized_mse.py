"""Triton kernel: the squared error of a bilinearly enlarged map to another, and its gradient. Arithmetic in fp32.

A cell is what lies between four neighbouring pixels of the small map: cell (i, j) reaches from pixel (i, j) to the one
below and to the right. It holds SY x SX pixels of the large map, in its rows from SY * i + SY // 2 on. In every cell
row k of them lies at (k + 1/2) / SY between the cell's two rows for an even SY, at k / SY for an odd one, which is
torch's `align_corners=False`. In cells that reach over the border, -1 and h - 1, both rows are the border's. Columns
likewise.

A pixel's gradient comes from the four cells around it, its value from the quarters of them that are nearest to it: from
the large map's pixels that lie in it. A lane has a pixel, whose cells no other lane helps with: nothing is exchanged
but the sums at the end. Programs go from block to block of pixels, so that few of them leave parts of the sums.
"""

import triton
import triton.language as tl


@triton.jit
def _corner(students, y, x, w, C, inside):
    return tl.load(students + ((y * w + x) * C)[:, None], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _weight(fraction, at_border, BELOW: tl.constexpr):
    """A pixel's weight along one axis in the cell above or below it; at the border it stands for both of a cell's."""
    return tl.where(at_border, 1.0, 1.0 - fraction if BELOW else fraction)


@triton.jit
def _rows(
    corners, teachers, first_y, first_x, border_y, border_x, h, w, C, inside, to_pixel, value,
    FIRST: tl.constexpr, END: tl.constexpr, IN_PIXEL: tl.constexpr, BELOW: tl.constexpr, RIGHT: tl.constexpr,
    SY: tl.constexpr, SX: tl.constexpr, GRAD: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """Plus what rows FIRST to END of a cell give to the pixel's gradient, and to the value those that lie in it."""
    HALF_Y: tl.constexpr = 0.0 if SY % 2 else 0.5
    HALF_X: tl.constexpr = 0.0 if SX % 2 else 0.5
    MIDDLE: tl.constexpr = SX - SX // 2
    FIRST_X: tl.constexpr = 0 if RIGHT else (SX % 2 if GRAD else MIDDLE)
    END_X: tl.constexpr = MIDDLE if RIGHT and not GRAD else SX
    top_left, top_right, bottom_left, bottom_right = corners
    for ky in range(FIRST, END):
        ly = (ky + HALF_Y) * (1.0 / SY)
        at_left = top_left + ly * (bottom_left - top_left)
        at_right = top_right + ly * (bottom_right - top_right)
        y = first_y + ky
        inside_y = (y >= 0) & (y < h * SY)
        weight_y = tl.where(inside_y, _weight(ly, border_y, BELOW), 0.0)
        for kx in tl.static_range(FIRST_X, END_X):
            lx = (kx + HALF_X) * (1.0 / SX)
            x = first_x + kx
            inside_x = (x >= 0) & (x < w * SX)
            pointers = teachers + ((y * (w * SX) + x) * C)[:, None]
            teacher = tl.load(pointers, mask=inside & (inside_y & inside_x)[:, None], other=0.0).to(tl.float32)
            difference = at_left + lx * (at_right - at_left) - teacher
            if GRAD:
                weight_x = tl.where(inside_x, _weight(lx, border_x, RIGHT), 0.0)
                to_pixel += (weight_y * weight_x)[:, None] * difference
            if VALUE and IN_PIXEL and (kx < MIDDLE) == RIGHT:
                value += difference * difference
    return to_pixel, value


@triton.jit
def _cell(
    students, teachers, i, j, h, w, C, inside, to_pixel, value,
    BELOW: tl.constexpr, RIGHT: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, GRAD: tl.constexpr,
    VALUE: tl.constexpr,
):  # fmt: skip
    """Plus what one of the four cells around the pixels (i, j) gives to their gradient and the value."""
    MIDDLE: tl.constexpr = SY - SY // 2
    cell_y, cell_x = i - 1 + BELOW, j - 1 + RIGHT
    top, left = tl.maximum(cell_y, 0), tl.maximum(cell_x, 0)
    bottom = tl.minimum(cell_y + 1, h - 1) if SY > 1 else top  # scale 1 has no pixel between two others
    right = tl.minimum(cell_x + 1, w - 1) if SX > 1 else left
    corners = (
        _corner(students, top, left, w, C, inside),
        _corner(students, top, right, w, C, inside),
        _corner(students, bottom, left, w, C, inside),
        _corner(students, bottom, right, w, C, inside),
    )
    border_y, border_x = i == (h - 1 if BELOW else 0), j == (w - 1 if RIGHT else 0)
    first_y, first_x = cell_y * SY + SY // 2, cell_x * SX + SX // 2
    if BELOW or GRAD:  # an odd scale's first row coincides with the cell's upper corners: no weight for the lower ones
        to_pixel, value = _rows(
            corners, teachers, first_y, first_x, border_y, border_x, h, w, C, inside, to_pixel, value,
            0 if BELOW else SY % 2, MIDDLE, BELOW, BELOW, RIGHT, SY, SX, GRAD, VALUE,
        )  # fmt: skip
    if GRAD or not BELOW:
        to_pixel, value = _rows(
            corners, teachers, first_y, first_x, border_y, border_x, h, w, C, inside, to_pixel, value,
            MIDDLE, SY, not BELOW, BELOW, RIGHT, SY, SX, GRAD, VALUE,
        )  # fmt: skip
    return to_pixel, value


@triton.jit(
    do_not_specialize=["pixels", "h", "w", "values_stride", "sums_stride"],
    do_not_specialize_on_alignment=["values_ptr", "sums_ptr"],
)
def resized_mse_kernel(
    student_ptr, teacher_ptr, upstream_ptr, gradient_ptr, values_ptr, sums_ptr,
    pixels, h, w, C, scale, values_stride, sums_stride,
    SY: tl.constexpr, SX: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The squared error and its gradient, of each what there is a pointer for.

    The student is `(pixels, C)`, its pixels those of images of h x w; the teacher has SY * SX times as many.

    values: `scale` times the squared error, in one part for each program, `(programs, programs)` by pixels and
        channels, for a deterministic sum afterwards.
    gradient: its derivative by the student, times `upstream` if there is that, of the student's shape.
    sums: that, in parts of the sum over pixels, `(programs, C)`.
    """
    GRAD: tl.constexpr = gradient_ptr is not None
    VALUE: tl.constexpr = values_ptr is not None
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    factor = 2.0 * scale
    if upstream_ptr is not None:
        factor *= tl.load(upstream_ptr).to(tl.float32)
    value = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    sums = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(pixels, BLOCK_P), tl.num_programs(0)):
        p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        inside = (p < pixels)[:, None] & (c < C)
        i, j = p // w % h, p % w
        first = (p // w // h).to(tl.int64)[:, None] * (h * w * C)  # of an image; within one, 32 bits are enough
        students, teachers = student_ptr + first + c, teacher_ptr + first * (SY * SX) + c
        to_pixel = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
        for below in tl.static_range(2):
            for right in tl.static_range(2):
                to_pixel, value = _cell(
                    students, teachers, i, j, h, w, C, inside, to_pixel, value, below, right, SY, SX, GRAD, VALUE
                )
        if GRAD:
            to_pixel *= factor
            sums += to_pixel
            pointers = gradient_ptr + (p.to(tl.int64) * C)[:, None] + c
            tl.store(pointers, to_pixel.to(gradient_ptr.dtype.element_ty), mask=inside)
    if VALUE:
        total = tl.sum(tl.sum(value, axis=1), axis=0)
        tl.store(values_ptr + tl.program_id(0) * values_stride + tl.program_id(1), scale * total)
    if sums_ptr is not None:
        of_columns = tl.sum(sums, axis=0, keep_dims=True)
        tl.store(sums_ptr + tl.program_id(0) * sums_stride + c, of_columns, mask=c < C)
