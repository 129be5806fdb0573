"""Triton kernel: the squared error of a bilinearly enlarged map to another, and its gradient. Arithmetic in fp32.

A cell is what lies between four neighbouring pixels of the small map: cell (i, j) reaches from pixel (i, j) to the one
below and to the right. It holds SY x SX pixels of the large map, in its rows from SY * i + SY // 2 on. In every cell
row k of them lies at (k + 1/2) / SY between the cell's two rows for an even SY, at k / SY for an odd one, which is
torch's `align_corners=False`. In cells that reach over the border, -1 and h - 1, both rows are the border's. Columns
likewise.
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
def _cell(
    students, teachers, i, j, h, w, C, inside, total,
    BELOW: tl.constexpr, RIGHT: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, GRAD: tl.constexpr,
):  # fmt: skip
    """`total` plus what one of the four cells around the pixels (i, j) of the small map adds to it.

    For the gradient that is all of the cell; for the value only the quarter nearest to (i, j), so that a pixel counts
    once.
    """
    HALF_Y: tl.constexpr = 0.0 if SY % 2 else 0.5
    HALF_X: tl.constexpr = 0.0 if SX % 2 else 0.5
    # An odd scale's first pixel coincides with the cell's upper corner, and so has no weight for the lower one.
    FIRST_Y: tl.constexpr = 0 if BELOW else (SY % 2 if GRAD else SY - SY // 2)
    FIRST_X: tl.constexpr = 0 if RIGHT else (SX % 2 if GRAD else SX - SX // 2)
    END_Y: tl.constexpr = SY - SY // 2 if BELOW and not GRAD else SY
    END_X: tl.constexpr = SX - SX // 2 if RIGHT and not GRAD else SX
    cell_y, cell_x = i - 1 + BELOW, j - 1 + RIGHT
    top, left = tl.maximum(cell_y, 0), tl.maximum(cell_x, 0)
    bottom = tl.minimum(cell_y + 1, h - 1) if SY > 1 else top  # scale 1 has no pixel between two others
    right = tl.minimum(cell_x + 1, w - 1) if SX > 1 else left
    top_left = _corner(students, top, left, w, C, inside)
    top_right = _corner(students, top, right, w, C, inside)
    bottom_left = _corner(students, bottom, left, w, C, inside)
    bottom_right = _corner(students, bottom, right, w, C, inside)
    border_y, border_x = i == (h - 1 if BELOW else 0), j == (w - 1 if RIGHT else 0)
    first_y, first_x = cell_y * SY + SY // 2, cell_x * SX + SX // 2
    for ky in range(FIRST_Y, END_Y):
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
                total += (weight_y * weight_x)[:, None] * difference
            else:
                total += difference * difference
    return total


@triton.jit
def resized_mse_kernel(
    student_ptr, teacher_ptr, upstream_ptr, out_ptr, pixels, h, w, C, scale,
    SY: tl.constexpr, SX: tl.constexpr, GRAD: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`scale` times the squared error, in one part per program, `(programs,)`, for a deterministic sum afterwards.

    With GRAD instead its derivative by the student times `upstream`, `(pixels, C)`. The student is `(pixels, C)`, its
    pixels those of images of h x w; the teacher has SY * SX times as many.
    """
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    inside = (p < pixels)[:, None] & (c < C)
    i, j = p // w % h, p % w
    first = (p // w // h).to(tl.int64)[:, None] * (h * w * C)  # of an image; within one, 32 bits are enough
    students, teachers = student_ptr + first + c, teacher_ptr + first * (SY * SX) + c
    total = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for below in tl.static_range(2):
        for right in tl.static_range(2):
            total = _cell(students, teachers, i, j, h, w, C, inside, total, below, right, SY, SX, GRAD)
    if GRAD:
        total *= 2.0 * scale * tl.load(upstream_ptr).to(tl.float32)
        pointers = out_ptr + (p.to(tl.int64) * C)[:, None] + c
        tl.store(pointers, total.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        tl.store(out_ptr + program, scale * tl.sum(tl.sum(total, axis=1), axis=0))
