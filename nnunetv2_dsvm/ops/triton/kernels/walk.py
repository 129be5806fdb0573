"""Where a direction of the scan goes next in a grid whose tokens lie in raster order: arithmetic, in Triton."""

import triton
import triton.language as tl


@triton.jit
def visited(L, height, width, depth, STEP: tl.constexpr):
    """Tokens of a walk through a grid of L tokens: every STEP-th along each axis that is longer than 1."""
    if STEP == 1:
        return L
    else:
        return tl.cdiv(depth, STEP) * tl.cdiv(height, STEP) * tl.cdiv(width, STEP)


@triton.jit
def walk(k, L, height, width, depth, ORDERS: tl.constexpr, STEP: tl.constexpr):
    """Direction k, for `place_of` and `group_rows`.

    Without ORDERS, of an image in its four directions: (length of its inner axis, raster step along it, raster index of
    its first token, sign). Otherwise of depth * height * width tokens, ORDERS as `launch_plan.order_numbers`: (tokens
    of a line, lines of a slab, raster steps along a line, from line to line and from slab to slab, the last token's
    distance from the first, the first one's raster index, sign).
    """
    if ORDERS is None:
        inner = tl.where(k % 2 == 1, height, L)
        step = tl.where(k % 2 == 1, width, 1)
        return inner, step, tl.where(k >= 2, L - 1, 0), tl.where(k >= 2, -1, 1)
    else:
        counts = (tl.cdiv(depth, STEP), tl.cdiv(height, STEP), tl.cdiv(width, STEP))
        strides = (height * width, width, 1)
        line = 0
        lines = 0
        step = 0
        to_line = 0
        to_slab = 0
        first = 0
        sign = 0
        last = (counts[0] - 1) * strides[0] + (counts[1] - 1) * strides[1] + (counts[2] - 1)
        last *= STEP
        for j in tl.static_range(len(ORDERS) // 7):
            here = k == j
            phase = ORDERS[7 * j + 4] * strides[0] + ORDERS[7 * j + 5] * strides[1] + ORDERS[7 * j + 6]
            line = tl.where(here, counts[ORDERS[7 * j + 2]], line)
            lines = tl.where(here, counts[ORDERS[7 * j + 1]], lines)
            step = tl.where(here, strides[ORDERS[7 * j + 2]] * STEP, step)
            to_line = tl.where(here, strides[ORDERS[7 * j + 1]] * STEP, to_line)
            to_slab = tl.where(here, strides[ORDERS[7 * j]] * STEP, to_slab)
            first = tl.where(here, phase + ORDERS[7 * j + 3] * last, first)
            sign = tl.where(here, 1 - 2 * ORDERS[7 * j + 3], sign)
        return line, lines, step, to_line, to_slab, last, first, sign


@triton.jit
def place_of(t, direction):
    """Where the t-th token lies: (indices along the inner axes, raster distance from the first). It takes divisions."""
    if len(direction) == 4:
        inner, step, _, _ = direction
        position = t % inner
        return position, position * step + t // inner
    else:
        line, lines, step, to_line, to_slab, _, _, _ = direction
        position = t % line
        index = t // line % lines
        return position, index, position * step + index * to_line + t // line // lines * to_slab


@triton.jit
def advance(place, direction, steps):
    """The place `steps` tokens on, of which only the last may leave the line."""
    if len(direction) == 4:
        inner, step, _, _ = direction
        position, raster = place
        wrapped = position + steps == inner
        raster += steps * step + tl.where(wrapped, 1 - inner * step, 0)
        return tl.where(wrapped, 0, position + steps), raster
    else:
        line, lines, step, to_line, to_slab, _, _, _ = direction
        position, index, raster = place
        wrapped = position + steps == line
        index += tl.where(wrapped, 1, 0)
        slab_ends = index == lines
        raster += steps * step + tl.where(wrapped, to_line - line * step, 0)
        raster += tl.where(slab_ends, to_slab - lines * to_line, 0)
        return tl.where(wrapped, 0, position + steps), tl.where(slab_ends, 0, index), raster


@triton.jit
def group_rows(place, L, direction, T: tl.constexpr, STRAIGHT: tl.constexpr, WIDE: tl.constexpr):
    """Raster indices of T tokens from a place on, in range also past the end, and the place after them.

    STRAIGHT says that T divides every line, so that a group never turns into the next one.
    """
    last = L - 1 if len(direction) == 4 else direction[5]
    step = direction[1] if len(direction) == 4 else direction[2]
    first = direction[len(direction) - 2]
    sign = direction[len(direction) - 1]
    rows = ()
    if STRAIGHT:
        row = first + sign * tl.minimum(place[len(place) - 1], last - (T - 1) * step)
        for i in tl.static_range(T):
            rows += ((row + sign * step * i).to(tl.int64 if WIDE else tl.int32),)
        place = advance(place, direction, T)
    else:
        for _ in tl.static_range(T):
            row = first + sign * tl.minimum(place[len(place) - 1], last)
            rows += (row.to(tl.int64 if WIDE else tl.int32),)
            place = advance(place, direction, 1)
    return rows, place
