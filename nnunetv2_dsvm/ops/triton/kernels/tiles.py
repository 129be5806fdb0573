"""How the scan's Triton kernels tile a warp, walk a direction and load tokens.

A program is one warp and keeps the states of a block of channels in registers, as a 4-D tensor `[LD, LN, SD, SN]`:
channel d = ld * SD + sd, state n = ln * SN + sn. Triton lays the leading axes over the lanes of a warp and the trailing
ones into each lane's registers, so the four numbers choose how a warp tiles channels x states: a sum over states costs
log2(LN) shuffles for each of SD values, a sum over channels log2(LD) for each of SN. What depends on channels only is
`[LD, LN, SD]`, on states only `[LD, LN, SN]`, repeated over the other's lanes and loaded by one instruction, so that no
value ever passes through shared memory.

Tokens stay in raster order in memory; where a direction goes next is arithmetic. A group of T tokens is loaded while
the group before it is computed, and waits in registers as it lies in memory: 16-bit values as 32-bit words of two
(PACKED), because a conversion would wait for the load, and for half the registers.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def over_states(v):
    """`[LD, LN, SD]` to `[LD, LN, SD, 1]`."""
    return v[:, :, :, None]


@triton.jit
def over_channels(v):
    """`[LD, LN, SN]` to `[LD, LN, 1, SN]`."""
    return v[:, :, None, :]


@triton.jit
def in_lane_states(v):
    """`[LD, LN, SD, SN]` to `[LD, LN, SD]`: each lane's part of a sum over states, without shuffles."""
    return tl.sum(v, axis=3)


@triton.jit
def in_lane_channels(v):
    """`[LD, LN, SD, SN]` to `[LD, LN, SN]`: each lane's part of a sum over channels, without shuffles."""
    return tl.sum(v, axis=2)


@triton.jit
def across_states(v):
    """Completes a sum over states: `[LD, LN, SD]`, the same for every LN."""
    return tl.broadcast_to(tl.sum(v, axis=1, keep_dims=True), v.shape)


@triton.jit
def across_channels(v):
    """Completes a sum over channels: `[LD, LN, SN]`, the same for every LD."""
    return tl.broadcast_to(tl.sum(v, axis=0, keep_dims=True), v.shape)


@triton.jit
def lanes(one, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr):
    """First channel and first state of each lane, `[LD, LN, 1]`.

    `one` is 1, but not to the compiler: if it saw values contiguous across lanes, it would choose another layout for
    the loads, from which every value then travels through shared memory.
    """
    ld = tl.arange(0, LD)[:, None, None]
    ln = tl.arange(0, LN)[None, :, None]
    return (ld + ln * 0) * one * SD, (ld * 0 + ln) * one * SN


@triton.jit
def steps(one, S: tl.constexpr, VECTOR: tl.constexpr):
    """0 … S - 1 along a lane's registers, `[1, 1, S]`; contiguous to the compiler only with VECTOR."""
    step = tl.arange(0, S)[None, None, :]
    return step if VECTOR else step * one


@triton.jit
def channel_block(
    D, N, one, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr, VECTOR: tl.constexpr
):
    """This program's channels and all states: (channel and state of each lane, steps from there, D, N, one)."""
    d_lane, n_lane = lanes(one, LD, LN, SD, SN)
    d_lane += tl.program_id(0) * SD * LD
    return d_lane, n_lane, steps(one, SD, VECTOR), steps(one, SN, VECTOR), D, N, one


@triton.jit
def state_tile(base, block, stride_d, stride_n):
    """Pointers to and mask of the block's states in memory."""
    d_lane, n_lane, d_step, n_step, D, N, one = block
    d = over_states(d_lane + d_step)
    n = over_channels(n_lane + n_step * one)
    return base + d * stride_d + n * stride_n, (d < D) & (n < N)


@triton.jit
def load_states(base, block, stride_d, stride_n):
    """The block's states, or A, from memory; 0 outside."""
    pointers, mask = state_tile(base, block, stride_d, stride_n)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store_states(base, block, states):
    """The block's states to `(N, D)` in memory."""
    D = block[4]
    pointers, mask = state_tile(base, block, 1, D)
    tl.store(pointers, states, mask=mask)


@triton.jit
def one_lane_of_states(block, LN: tl.constexpr, EVEN_D: tl.constexpr):
    """Mask of `[LD, LN, SD]` values that one lane of each channel writes."""
    d_lane, _, d_step, _, D, _, _ = block
    first = tl.arange(0, LN)[None, :, None] + (d_lane + d_step) * 0 == 0
    return first if EVEN_D else first & (d_lane + d_step < D)


@triton.jit
def one_lane_of_channels(block, LD: tl.constexpr, EVEN_N: tl.constexpr):
    """Mask of `[LD, LN, SN]` values that one lane of each state writes."""
    _, n_lane, _, n_step, _, N, _ = block
    first = tl.arange(0, LD)[:, None, None] + (n_lane + n_step) * 0 == 0
    return first if EVEN_N else first & (n_lane + n_step < N)


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
            a: tl.constexpr = ORDERS[7 * j + 2]
            b: tl.constexpr = ORDERS[7 * j + 1]
            c: tl.constexpr = ORDERS[7 * j]
            phase = ORDERS[7 * j + 4] * strides[0] + ORDERS[7 * j + 5] * strides[1] + ORDERS[7 * j + 6]
            line = tl.where(here, counts[a], line)
            lines = tl.where(here, counts[b], lines)
            step = tl.where(here, strides[a] * STEP, step)
            to_line = tl.where(here, strides[b] * STEP, to_line)
            to_slab = tl.where(here, strides[c] * STEP, to_slab)
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


@triton.jit
def stream(pointers, stride, lane, step, size, one, EVEN: tl.constexpr, VECTOR: tl.constexpr, PACKED: tl.constexpr):
    """A tensor for `load_group` to load token by token: lanes' pointers, a token's stride, steps, unless EVEN a mask.

    With PACKED, 16-bit values are loaded as words of two, which `widen` takes apart. EVEN says that all of the block's
    channels (or states) exist.
    """
    lanes_pointers = pointers + lane
    # The number first: Triton 3.3 cannot compare its own constants the other way round.
    per_load: tl.constexpr = 2 if PACKED and pointers.dtype.element_ty.primitive_bitwidth == 16 else 1
    if per_load == 2:
        lanes_pointers = lanes_pointers.to(tl.pointer_type(tl.int32), bitcast=True)
        step = steps(one, step.shape[2] // 2, VECTOR)
    if EVEN:
        return lanes_pointers, stride // per_load, step
    else:
        return lanes_pointers, stride // per_load, step, lane + step * per_load < size


@triton.jit
def load_group(streams, rows, t, L, EVEN_L: tl.constexpr):
    """The tokens at `rows`, from t on, stream by stream: tuples of `[LD, LN, S]`; 0 outside and past the end."""
    groups = ()
    for s in tl.static_range(len(streams)):
        pointers, stride, step = streams[s][:3]
        group = ()
        for i in tl.static_range(len(rows)):
            inside = streams[s][3] if len(streams[s]) == 4 else None
            if not EVEN_L:
                inside = (t + i < L) if inside is None else (inside & (t + i < L))
            zero = None if inside is None else 0
            group += (tl.load((pointers + rows[i] * stride) + step, mask=inside, other=zero),)
        groups += (group,)
    return groups


@triton.jit
def widen(v, dtype: tl.constexpr):
    """Values, or words of two values, of `dtype` that `load_group` loaded, as fp32 `[LD, LN, S]`."""
    if v.dtype == tl.int32:
        if dtype == tl.bfloat16:
            low = (v << 16).to(tl.float32, bitcast=True)
            high = (v & -65536).to(tl.float32, bitcast=True)
        else:
            low = v.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
            high = (v >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
        return tl.reshape(tl.join(low, high), (v.shape[0], v.shape[1], v.shape[2] * 2))
    else:
        return v.to(tl.float32)
