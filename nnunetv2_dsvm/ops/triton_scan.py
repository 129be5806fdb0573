"""Triton kernels of the four-direction selective scan: forward, and the passes that cut L into chunks.

A program walks one direction of one image (or of one chunk of it) token by token, for a block of channels: see
`triton_tiles`. Names: delta = softplus(dt + bias), a2 = A log2(e), decay = exp2(delta a2), u = delta x, h the state,
flow the gradient of the state. All arithmetic is fp32.
"""

import triton
import triton.language as tl

from nnunetv2_dsvm.ops.triton_tiles import (
    DIRECTIONS,
    LOG2_E,
    group_rows,
    lanes,
    load_group,
    over_channels,
    over_states,
    state_tile,
    steps,
    sum_states,
    walk,
    widen,
    words,
)


@triton.jit(do_not_specialize=["one"])
def chunk_end_kernel(
    v_ptr, delta_ptr, a_ptr, w_ptr, end_ptr, time_ptr,
    L, D, N, height, width, chunks, chunk_length, stride_v, stride_delta, stride_w, stride_wk, one,
    REVERSE: tl.constexpr, EVEN_L: tl.constexpr, EVEN_D: tl.constexpr, EVEN_N: tl.constexpr,
    VECTOR: tl.constexpr, PACKED: tl.constexpr, WIDE: tl.constexpr,
    T: tl.constexpr, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr,
):  # fmt: skip
    """What a chunk by itself leaves at its end, `(batch, K, chunks, N, D)`, and the sum of its delta.

    Forward: h after the chunk, from v = x and w = B. Reverse: flow before it, from v = the gradient of y and w = C.
    """
    k = tl.program_id(1)
    image = tl.program_id(2) // chunks
    chunk = tl.program_id(2) % chunks
    d_lane, n_lane = lanes(one, LD, LN, SD, SN)
    d_lane += tl.program_id(0) * SD * LD
    d_step = steps(one, SD, VECTOR)
    n_step = steps(one, SN, VECTOR)
    d_word = steps(one, SD // 2, VECTOR) if PACKED else d_step
    n_word = steps(one, SN // 2, VECTOR) if PACKED else n_step
    mask_d = None if EVEN_D else d_lane + d_step < D
    load_d = None if EVEN_D else d_lane + d_word * (2 if PACKED else 1) < D
    load_n = None if EVEN_N else n_lane + n_word * (2 if PACKED else 1) < N
    pointers, mask = state_tile(a_ptr + k * D * N, d_lane, n_lane, d_step, n_step, one, D, N, N, 1)
    a2 = tl.load(pointers, mask=mask, other=0.0) * LOG2_E
    row0 = image.to(tl.int64) * L
    v_lane = words(v_ptr + row0 * stride_v + d_lane, PACKED)
    delta_lane = words(delta_ptr + row0 * stride_delta + k * D + d_lane, PACKED)
    w_lane = words(w_ptr + row0 * stride_w + k * stride_wk + n_lane, PACKED)
    direction = walk(k, L, height, width)

    h = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)
    time = tl.zeros([LD, LN, SD], dtype=tl.float32)
    start = chunk * chunk_length
    end = tl.minimum(start + chunk_length, L)
    groups = (end - start + T - 1) // T
    t = start + (groups - 1 if REVERSE else 0) * T
    rows = group_rows(t, L, direction, T, WIDE)
    vs = load_group(v_lane, rows, stride_v, d_word, t, L, load_d, EVEN_L, PACKED)
    deltas = load_group(delta_lane, rows, stride_delta, d_word, t, L, load_d, EVEN_L, PACKED)
    ws = load_group(w_lane, rows, stride_w, n_word, t, L, load_n, EVEN_L, PACKED)
    for g in range(groups):
        t = start + (tl.maximum(groups - 2 - g, 0) if REVERSE else g + 1) * T
        here = rows[0]
        rows = group_rows(t, L, direction, T, WIDE)
        next_vs = load_group(v_lane, rows, stride_v, d_word, t, L, load_d, EVEN_L, PACKED)
        next_deltas = load_group(delta_lane, rows, stride_delta, d_word, t, L, load_d, EVEN_L, PACKED)
        next_ws = load_group(w_lane, rows, stride_w, n_word, t, L, load_n, EVEN_L, PACKED)
        # Always true, but not to the compiler, which would put this arithmetic in front of the loads above.
        if here >= 0:
            for i in tl.static_range(T - 1 if REVERSE else 0, -1 if REVERSE else T, -1 if REVERSE else 1):
                delta = widen(deltas[i], delta_ptr.dtype.element_ty, PACKED)
                v = widen(vs[i], v_ptr.dtype.element_ty, PACKED)
                w = over_channels(widen(ws[i], w_ptr.dtype.element_ty, PACKED))
                decay = tl.exp2(over_states(delta) * a2)
                if REVERSE:
                    h = (h + over_states(v) * w) * decay
                else:
                    h = h * decay + over_states(v * delta) * w
                time += delta
        vs = next_vs
        deltas = next_deltas
        ws = next_ws
    index = ((image * DIRECTIONS + k) * chunks + chunk).to(tl.int64)
    pointers, mask = state_tile(end_ptr + index * N * D, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
    tl.store(pointers, h, mask=mask)
    first_n = tl.arange(0, LN)[None, :, None] + (d_lane + d_step) * 0 == 0
    if not EVEN_D:
        first_n = first_n & mask_d
    tl.store(time_ptr + index * D + (d_lane + d_step), time, mask=first_n)


@triton.jit
def chunk_entry_kernel(
    end_ptr, time_ptr, a_ptr, D, N, chunks, REVERSE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Turns what each chunk leaves by itself into what enters it, in place."""
    sequence = tl.program_id(1)  # image * K + direction
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = element < N * D
    n = element // D
    d = element % D
    a2 = tl.load(a_ptr + ((sequence % DIRECTIONS) * D + d) * N + n, mask=mask, other=0.0) * LOG2_E
    entering = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(chunks):
        chunk = chunks - 1 - i if REVERSE else i
        index = sequence.to(tl.int64) * chunks + chunk
        own = tl.load(end_ptr + index * N * D + element, mask=mask, other=0.0)
        time = tl.load(time_ptr + index * D + d, mask=mask, other=0.0)
        tl.store(end_ptr + index * N * D + element, entering, mask=mask)
        entering = entering * tl.exp2(a2 * time) + own


@triton.jit(do_not_specialize=["one"])
def forward_kernel(
    x_ptr, delta_ptr, a_ptr, b_ptr, c_ptr, y_ptr, entering_ptr, boundary_ptr,
    L, D, N, height, width, chunks, chunk_length, intervals, stride_x, stride_delta, stride_b, stride_bk, one,
    HAS_ENTERING: tl.constexpr, SAVE: tl.constexpr, INTERVAL: tl.constexpr,
    EVEN_L: tl.constexpr, EVEN_D: tl.constexpr, EVEN_N: tl.constexpr,
    VECTOR: tl.constexpr, PACKED: tl.constexpr, WIDE: tl.constexpr,
    T: tl.constexpr, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr,
):  # fmt: skip
    """y of each direction without the skip, `(batch, L, K, D)`; with SAVE also h before every INTERVAL-th token."""
    k = tl.program_id(1)
    image = tl.program_id(2) // chunks
    chunk = tl.program_id(2) % chunks
    d_lane, n_lane = lanes(one, LD, LN, SD, SN)
    d_lane += tl.program_id(0) * SD * LD
    d_step = steps(one, SD, VECTOR)
    n_step = steps(one, SN, VECTOR)
    d_word = steps(one, SD // 2, VECTOR) if PACKED else d_step
    n_word = steps(one, SN // 2, VECTOR) if PACKED else n_step
    load_d = None if EVEN_D else d_lane + d_word * (2 if PACKED else 1) < D
    load_n = None if EVEN_N else n_lane + n_word * (2 if PACKED else 1) < N
    first_n = tl.arange(0, LN)[None, :, None] + (d_lane + d_step) * 0 == 0
    if not EVEN_D:
        first_n = first_n & (d_lane + d_step < D)
    pointers, mask = state_tile(a_ptr + k * D * N, d_lane, n_lane, d_step, n_step, one, D, N, N, 1)
    a2 = tl.load(pointers, mask=mask, other=0.0) * LOG2_E
    row0 = image.to(tl.int64) * L
    x_lane = words(x_ptr + row0 * stride_x + d_lane, PACKED)
    delta_lane = words(delta_ptr + row0 * stride_delta + k * D + d_lane, PACKED)
    b_lane = words(b_ptr + row0 * stride_b + k * stride_bk + n_lane, PACKED)
    c_lane = words(c_ptr + row0 * stride_b + k * stride_bk + n_lane, PACKED)
    y_lane = y_ptr + (row0 * DIRECTIONS + k) * D + d_lane
    direction = walk(k, L, height, width)

    sequence = (image * DIRECTIONS + k).to(tl.int64)
    if HAS_ENTERING:
        tile = entering_ptr + (sequence * chunks + chunk) * N * D
        pointers, mask = state_tile(tile, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
        h = tl.load(pointers, mask=mask, other=0.0)
    else:
        h = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)

    start = chunk * chunk_length
    end = tl.minimum(start + chunk_length, L)
    rows = group_rows(start, L, direction, T, WIDE)
    xs = load_group(x_lane, rows, stride_x, d_word, start, L, load_d, EVEN_L, PACKED)
    deltas = load_group(delta_lane, rows, stride_delta, d_word, start, L, load_d, EVEN_L, PACKED)
    bs = load_group(b_lane, rows, stride_b, n_word, start, L, load_n, EVEN_L, PACKED)
    cs = load_group(c_lane, rows, stride_b, n_word, start, L, load_n, EVEN_L, PACKED)
    for t0 in range(start, end, INTERVAL):
        if SAVE:
            tile = boundary_ptr + (sequence * intervals + t0 // INTERVAL) * N * D
            pointers, mask = state_tile(tile, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
            tl.store(pointers, h, mask=mask)
        for t1 in range(t0, tl.minimum(t0 + INTERVAL, end), T):
            t = t1 + T
            next_rows = group_rows(t, L, direction, T, WIDE)
            next_xs = load_group(x_lane, next_rows, stride_x, d_word, t, L, load_d, EVEN_L, PACKED)
            next_deltas = load_group(delta_lane, next_rows, stride_delta, d_word, t, L, load_d, EVEN_L, PACKED)
            next_bs = load_group(b_lane, next_rows, stride_b, n_word, t, L, load_n, EVEN_L, PACKED)
            next_cs = load_group(c_lane, next_rows, stride_b, n_word, t, L, load_n, EVEN_L, PACKED)
            # Always true, but not to the compiler, which would put this arithmetic in front of the loads above.
            if rows[0] >= 0:
                for i in tl.static_range(T):
                    delta = widen(deltas[i], delta_ptr.dtype.element_ty, PACKED)
                    u = widen(xs[i], x_ptr.dtype.element_ty, PACKED) * delta
                    b = over_channels(widen(bs[i], b_ptr.dtype.element_ty, PACKED))
                    c = over_channels(widen(cs[i], c_ptr.dtype.element_ty, PACKED))
                    h = h * tl.exp2(over_states(delta) * a2) + over_states(u) * b
                    y = sum_states(h * c)
                    inside = first_n
                    if not EVEN_L:
                        inside = inside & (t1 + i < L)
                    tl.store((y_lane + rows[i] * (DIRECTIONS * D)) + d_step, y.to(y_ptr.dtype.element_ty), mask=inside)
            rows = next_rows
            xs = next_xs
            deltas = next_deltas
            bs = next_bs
            cs = next_cs
