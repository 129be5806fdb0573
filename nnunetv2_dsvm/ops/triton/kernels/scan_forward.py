"""Triton kernels of the selective scan in K directions: forward, and the passes that cut L into chunks.

A program walks one direction of one image (or of one chunk of it) token by token, for a block of channels: see
`tiles`. Names: delta = softplus(dt + bias), a2 = A log2(e), decay = exp2(delta a2), u = delta x, h the state,
dh the gradient of the state. All arithmetic is fp32.
"""

import triton
import triton.language as tl

from nnunetv2_dsvm.ops.triton.kernels.tiles import (
    LOG2_E,
    NOT_SPECIALISED,
    across_states,
    channel_block,
    in_lane_states,
    load_group,
    load_states,
    one_lane_of_states,
    over_channels,
    over_states,
    store_states,
    store_tile,
    stream,
    widen,
)
from nnunetv2_dsvm.ops.triton.kernels.walk import group_rows, place_of, visited, walk


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def chunk_end_kernel(
    v_ptr, delta_ptr, a_ptr, w_ptr, end_ptr, time_ptr,
    L, D, N, height, width, depth, chunks, chunk_length, stride_v, stride_delta, stride_w, stride_wk, one,
    REVERSE: tl.constexpr, EVEN_L: tl.constexpr, STRAIGHT: tl.constexpr, EVEN_D: tl.constexpr, EVEN_N: tl.constexpr,
    VECTOR: tl.constexpr, PACKED: tl.constexpr, PACKED_STATES: tl.constexpr, WIDE: tl.constexpr,
    ORDERS: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr,
    T: tl.constexpr, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr,
):  # fmt: skip
    """What a chunk by itself leaves at its end, `(batch, K, chunks, N, D)`, and the sum of its delta.

    Forward: h after the chunk, from v = x and w = B. Reverse: dh before it, from v = the gradient of y and w = C.
    """
    k = tl.program_id(1)
    image = tl.program_id(2) // chunks
    chunk = tl.program_id(2) % chunks
    block = channel_block(D, N, one, LD, LN, SD, SN, VECTOR)
    d_lane, n_lane, d_step, n_step = block[:4]
    a2 = load_states(a_ptr + k * D * N, block, N, 1) * LOG2_E
    row0 = image.to(tl.int64) * L
    v_base = v_ptr + row0 * stride_v
    delta_base = delta_ptr + row0 * stride_delta + k * D
    w_base = w_ptr + row0 * stride_w + k * stride_wk
    streams = (
        stream(v_base, stride_v, d_lane, d_step, D, one, EVEN_D, VECTOR, PACKED),
        stream(delta_base, stride_delta, d_lane, d_step, D, one, EVEN_D, VECTOR, PACKED),
        stream(w_base, stride_w, n_lane, n_step, N, one, EVEN_N, VECTOR, PACKED_STATES),
    )
    direction = walk(k, L, height, width, depth, ORDERS, STEP)
    length = visited(L, height, width, depth, STEP)

    h = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)
    time = tl.zeros([LD, LN, SD], dtype=tl.float32)
    start = chunk * chunk_length
    end = tl.minimum(start + chunk_length, length)
    groups = (end - start + T - 1) // T
    t = start + (groups - 1 if REVERSE else 0) * T
    rows, place = group_rows(place_of(t, direction), L, direction, T, STRAIGHT, WIDE)
    tokens = load_group(streams, rows, t, length, EVEN_L)
    for g in range(groups):
        t = start + (tl.maximum(groups - 2 - g, 0) if REVERSE else g + 1) * T
        if REVERSE:
            place = place_of(t, direction)
        next_rows, place = group_rows(place, L, direction, T, STRAIGHT, WIDE)
        next_tokens = load_group(streams, next_rows, t, length, EVEN_L)
        # Always true, but not to the compiler, which would put this arithmetic in front of the loads above.
        if rows[0] >= 0:
            vs, deltas, ws = tokens
            for i in tl.static_range(T - 1 if REVERSE else 0, -1 if REVERSE else T, -1 if REVERSE else 1):
                delta = widen(deltas[i], delta_ptr.dtype.element_ty)
                v = widen(vs[i], v_ptr.dtype.element_ty)
                w = over_channels(widen(ws[i], w_ptr.dtype.element_ty))
                decay = tl.exp2(over_states(delta) * a2)
                if REVERSE:
                    h = (h + over_states(v) * w) * decay
                else:
                    h = h * decay + over_states(v * delta) * w
                time += delta
        rows = next_rows
        tokens = next_tokens
    index = ((image * K + k) * chunks + chunk).to(tl.int64)
    store_states(end_ptr + index * N * D, block, h)
    first_n = one_lane_of_states(block, LN, EVEN_D)
    store_tile(time_ptr + index * D + (d_lane + d_step), time, first_n)


@triton.jit
def chunk_entry_kernel(
    end_ptr, time_ptr, a_ptr, D, N, chunks, REVERSE: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Turns what each chunk leaves by itself into what enters it, in place."""
    sequence = tl.program_id(1)  # image * K + direction
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = element < N * D
    n = element // D
    d = element % D
    a2 = tl.load(a_ptr + ((sequence % K) * D + d) * N + n, mask=mask, other=0.0) * LOG2_E
    initial_state = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(chunks):
        chunk = chunks - 1 - i if REVERSE else i
        index = sequence.to(tl.int64) * chunks + chunk
        own = tl.load(end_ptr + index * N * D + element, mask=mask, other=0.0)
        time = tl.load(time_ptr + index * D + d, mask=mask, other=0.0)
        tl.store(end_ptr + index * N * D + element, initial_state, mask=mask)
        initial_state = initial_state * tl.exp2(a2 * time) + own


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def forward_kernel(
    x_ptr, delta_ptr, a_ptr, b_ptr, c_ptr, y_ptr, initial_state_ptr, saved_states_ptr,
    L, D, N, height, width, depth, chunks, chunk_length, intervals, stride_x, stride_delta, stride_b, stride_bk, one,
    HAS_INITIAL_STATE: tl.constexpr, SAVE: tl.constexpr, INTERVAL: tl.constexpr,
    EVEN_L: tl.constexpr, STRAIGHT: tl.constexpr, EVEN_D: tl.constexpr, EVEN_N: tl.constexpr,
    VECTOR: tl.constexpr, PACKED: tl.constexpr, PACKED_STATES: tl.constexpr, WIDE: tl.constexpr,
    ORDERS: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr,
    T: tl.constexpr, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr,
):  # fmt: skip
    """y of each direction without the skip, `(batch, L, K, D)`; with SAVE also h before every INTERVAL-th token."""
    k = tl.program_id(1)
    image = tl.program_id(2) // chunks
    chunk = tl.program_id(2) % chunks
    block = channel_block(D, N, one, LD, LN, SD, SN, VECTOR)
    d_lane, n_lane, d_step, n_step = block[:4]
    first_n = one_lane_of_states(block, LN, EVEN_D)
    a2 = load_states(a_ptr + k * D * N, block, N, 1) * LOG2_E
    row0 = image.to(tl.int64) * L
    x_base = x_ptr + row0 * stride_x
    delta_base = delta_ptr + row0 * stride_delta + k * D
    b_base = b_ptr + row0 * stride_b + k * stride_bk
    c_base = c_ptr + row0 * stride_b + k * stride_bk
    streams = (
        stream(x_base, stride_x, d_lane, d_step, D, one, EVEN_D, VECTOR, PACKED),
        stream(delta_base, stride_delta, d_lane, d_step, D, one, EVEN_D, VECTOR, PACKED),
        stream(b_base, stride_b, n_lane, n_step, N, one, EVEN_N, VECTOR, PACKED_STATES),
        stream(c_base, stride_b, n_lane, n_step, N, one, EVEN_N, VECTOR, PACKED_STATES),
    )
    y_lane = y_ptr + (row0 * K + k) * D + d_lane
    direction = walk(k, L, height, width, depth, ORDERS, STEP)
    length = visited(L, height, width, depth, STEP)

    sequence = (image * K + k).to(tl.int64)
    if HAS_INITIAL_STATE:
        h = load_states(initial_state_ptr + (sequence * chunks + chunk) * N * D, block, 1, D)
    else:
        h = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)

    start = chunk * chunk_length
    end = tl.minimum(start + chunk_length, length)
    rows, place = group_rows(place_of(start, direction), L, direction, T, STRAIGHT, WIDE)
    tokens = load_group(streams, rows, start, length, EVEN_L)
    for t0 in range(start, end, INTERVAL):
        if SAVE:
            store_states(saved_states_ptr + (sequence * intervals + t0 // INTERVAL) * N * D, block, h)
        for t1 in range(t0, tl.minimum(t0 + INTERVAL, end), T):
            t = t1 + T
            next_rows, place = group_rows(place, L, direction, T, STRAIGHT, WIDE)
            next_tokens = load_group(streams, next_rows, t, length, EVEN_L)
            # Always true, but not to the compiler, which would put this arithmetic in front of the loads above.
            if rows[0] >= 0:
                xs, deltas, bs, cs = tokens
                parts = ()
                for i in tl.static_range(T):
                    delta = widen(deltas[i], delta_ptr.dtype.element_ty)
                    u = widen(xs[i], x_ptr.dtype.element_ty) * delta
                    b = over_channels(widen(bs[i], b_ptr.dtype.element_ty))
                    c = over_channels(widen(cs[i], c_ptr.dtype.element_ty))
                    h = h * tl.exp2(over_states(delta) * a2) + over_states(u) * b
                    parts += (in_lane_states(h * c),)
                # Shuffles of all tokens together, so that their latencies overlap.
                for i in tl.static_range(T):
                    inside = first_n
                    if not EVEN_L:
                        inside = inside & (t1 + i < length)
                    y = across_states(parts[i]).to(y_ptr.dtype.element_ty)
                    store_tile((y_lane + rows[i] * (K * D)) + d_step, y, inside)
            rows = next_rows
            tokens = next_tokens
