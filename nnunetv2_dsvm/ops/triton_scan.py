"""Triton kernels of the four-direction selective scan: forward, backward, and the passes that cut L into chunks.

A program walks one direction of one image (or of one chunk of it) token by token, for a block of channels, and keeps
the block's states in registers. Tokens stay in raster order in memory; where a direction goes next is arithmetic.

The states of a program are a 4-D tensor `[LD, LN, SD, SN]`: channel d = ld * SD + sd, state n = ln * SN + sn. Triton
lays the leading axes over the lanes of a warp and the trailing ones into each lane's registers, so the four numbers
choose how a warp tiles channels x states: a sum over states costs log2(LN) shuffles for each of SD values, a sum over
channels log2(LD) for each of SN. What depends on channels only is `[LD, LN, SD]`, on states only `[LD, LN, SN]`,
repeated over the other's lanes and loaded by one instruction, so that no value ever passes through shared memory.

The loads of T tokens stand before a barrier: it keeps the compiler from sinking each load to its use, where its
latency would be waited for once per token instead of once per T tokens.

Names: delta = softplus(dt + bias), a2 = A log2(e), decay = exp2(delta a2), u = delta x, h the state, flow the gradient
of the state. All arithmetic is fp32.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
DIRECTIONS = tl.constexpr(4)


@triton.jit
def _over_states(v):
    """`[LD, LN, SD]` to `[LD, LN, SD, 1]`."""
    return v[:, :, :, None]


@triton.jit
def _over_channels(v):
    """`[LD, LN, SN]` to `[LD, LN, 1, SN]`."""
    return v[:, :, None, :]


@triton.jit
def _sum_states(v):
    """`[LD, LN, SD, SN]` to `[LD, LN, SD]`, the same for every LN."""
    v = tl.sum(v, axis=3)
    return tl.broadcast_to(tl.sum(v, axis=1, keep_dims=True), v.shape)


@triton.jit
def _sum_channels(v):
    """`[LD, LN, SD, SN]` to `[LD, LN, SN]`, the same for every LD."""
    v = tl.sum(v, axis=2)
    return tl.broadcast_to(tl.sum(v, axis=0, keep_dims=True), v.shape)


@triton.jit
def _lanes(one, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr):
    """First channel and first state of each lane, `[LD, LN, 1]`.

    `one` is 1, but not to the compiler: if it saw values contiguous across lanes, it would choose another layout for
    the loads, from which every value then travels through shared memory.
    """
    ld = tl.arange(0, LD)[:, None, None]
    ln = tl.arange(0, LN)[None, :, None]
    return (ld + ln * 0) * one * SD, (ld * 0 + ln) * one * SN


@triton.jit
def _state_tile(base, d_lane, n_lane, d_step, n_step, one, D, N, stride_d, stride_n):
    """Pointers to and mask of a tile of states in memory."""
    d = _over_states(d_lane + d_step)
    n = _over_channels(n_lane + n_step * one)
    return base + d * stride_d + n * stride_n, (d < D) & (n < N)


@triton.jit
def _walk(k, L, height, width):
    """Direction k as (length of its inner axis, raster step along it, raster index of its first token, sign)."""
    inner = tl.where(k % 2 == 1, height, L)
    step = tl.where(k % 2 == 1, width, 1)
    return inner, step, tl.where(k >= 2, L - 1, 0), tl.where(k >= 2, -1, 1)


@triton.jit
def _next(position, raster, inner, step):
    """One token on: position along the inner axis, and raster index as if walked forward."""
    wrapped = position + 1 == inner
    return tl.where(wrapped, 0, position + 1), raster + step + tl.where(wrapped, 1 - inner * step, 0)


@triton.jit
def softplus_kernel(
    dt_ptr, bias_ptr, delta_ptr, rows, D, stride_dt, stride_delta, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """delta = softplus(dt + bias) of `(rows, K, D)`; may be in place."""
    k = tl.program_id(2)
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    mask = (r < rows) & (d < D)
    raw = tl.load(dt_ptr + r * stride_dt + k * D + d, mask=mask, other=0.0).to(tl.float32)
    raw += tl.load(bias_ptr + k * D + d, mask=d < D, other=0.0)
    # log(1 + e) for e = exp(-|raw|); by its series where 1 + e would lose the digits of e.
    e = tl.exp2(-tl.abs(raw) * LOG2_E)
    series = e * (1.0 - e * (0.5 - e * (0.33333334 - e * 0.25)))
    delta = tl.maximum(raw, 0.0) + tl.where(e < 0.01, series, tl.log2(1.0 + e) * LN_2)
    tl.store(delta_ptr + r * stride_delta + k * D + d, delta.to(delta_ptr.dtype.element_ty), mask=mask)


@triton.jit
def merge_kernel(
    parts_ptr, skip_ptr, scale_ptr, other_ptr, out_ptr, dot_ptr, rows, D, stride_skip,
    DOT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The sum of `(rows, K, D)` over K plus skip * scale, `(rows, D)`.

    With DOT also the sum of skip * other over this program's rows, `(programs, D)`.
    """
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    mask = (r < rows) & (d < D)
    skip = tl.load(skip_ptr + r * stride_skip + d, mask=mask, other=0.0).to(tl.float32)
    out = skip * tl.load(scale_ptr + d, mask=d < D, other=0.0)
    for k in tl.static_range(DIRECTIONS):
        out += tl.load(parts_ptr + (r * DIRECTIONS + k) * D + d, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + r * D + d, out.to(out_ptr.dtype.element_ty), mask=mask)
    if DOT:
        other = tl.load(other_ptr + r * D + d, mask=mask, other=0.0).to(tl.float32)
        dot = tl.sum(skip * other, axis=0)
        column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        tl.store(dot_ptr + tl.program_id(0).to(tl.int64) * D + column, dot, mask=column < D)


@triton.jit(do_not_specialize=["one"])
def chunk_end_kernel(
    v_ptr, delta_ptr, a_ptr, w_ptr, end_ptr, time_ptr,
    L, D, N, height, width, chunks, chunk_length, stride_v, stride_delta, stride_w, stride_wk, one,
    REVERSE: tl.constexpr, EVEN_L: tl.constexpr, EVEN_D: tl.constexpr, EVEN_N: tl.constexpr,
    VECTOR: tl.constexpr, WIDE: tl.constexpr,
    T: tl.constexpr, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr,
):  # fmt: skip
    """What a chunk by itself leaves at its end, `(batch, K, chunks, N, D)`, and the sum of its delta.

    Forward: h after the chunk, from v = x and w = B. Reverse: flow before it, from v = the gradient of y and w = C.
    """
    k = tl.program_id(1)
    image = tl.program_id(2) // chunks
    chunk = tl.program_id(2) % chunks
    first_d = tl.program_id(0) * SD * LD
    d_lane, n_lane = _lanes(one, LD, LN, SD, SN)
    d_lane += first_d
    d_step = tl.arange(0, SD)[None, None, :]
    n_step = tl.arange(0, SN)[None, None, :]
    if not VECTOR:
        d_step *= one
        n_step *= one
    mask_d = (d_lane + d_step < D) if not EVEN_D else None
    mask_n = (n_lane + n_step < N) if not EVEN_N else None
    pointers, mask = _state_tile(a_ptr + k * D * N, d_lane, n_lane, d_step, n_step, one, D, N, N, 1)
    a2 = tl.load(pointers, mask=mask, other=0.0) * LOG2_E
    row0 = image.to(tl.int64) * L
    v_lane = v_ptr + row0 * stride_v + d_lane
    delta_lane = delta_ptr + row0 * stride_delta + k * D + d_lane
    w_lane = w_ptr + row0 * stride_w + k * stride_wk + n_lane
    inner, step, first, sign = _walk(k, L, height, width)

    h = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)
    time = tl.zeros([LD, LN, SD], dtype=tl.float32)
    start = chunk * chunk_length
    end = tl.minimum(start + chunk_length, L)
    groups = (end - start + T - 1) // T
    for g in range(groups):
        t0 = start + (groups - 1 - g if REVERSE else g) * T
        position = t0 % inner
        raster = position * step + t0 // inner
        vs = ()
        deltas = ()
        ws = ()
        for i in tl.static_range(T):
            row = (first + sign * raster).to(tl.int64 if WIDE else tl.int32)
            md = mask_d
            mn = mask_n
            if not EVEN_L:
                md = (t0 + i < L) & (d_lane + d_step < D)
                mn = (t0 + i < L) & (n_lane + n_step < N)
            zero = None if md is None else 0.0
            zero_n = None if mn is None else 0.0
            vs += (tl.load((v_lane + row * stride_v) + d_step, mask=md, other=zero),)
            deltas += (tl.load((delta_lane + row * stride_delta) + d_step, mask=md, other=zero),)
            ws += (tl.load((w_lane + row * stride_w) + n_step, mask=mn, other=zero_n),)
            position, raster = _next(position, raster, inner, step)
        tl.debug_barrier()
        for i in tl.static_range(T - 1 if REVERSE else 0, -1 if REVERSE else T, -1 if REVERSE else 1):
            delta = deltas[i].to(tl.float32)
            v = vs[i].to(tl.float32)
            w = _over_channels(ws[i].to(tl.float32))
            decay = tl.exp2(_over_states(delta) * a2)
            if REVERSE:
                h = (h + _over_states(v) * w) * decay
            else:
                h = h * decay + _over_states(v * delta) * w
            time += delta
    index = ((image * DIRECTIONS + k) * chunks + chunk).to(tl.int64)
    pointers, mask = _state_tile(end_ptr + index * N * D, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
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
    VECTOR: tl.constexpr, WIDE: tl.constexpr,
    T: tl.constexpr, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr,
):  # fmt: skip
    """y of each direction without the skip, `(batch, L, K, D)`; with SAVE also h before every INTERVAL-th token."""
    k = tl.program_id(1)
    image = tl.program_id(2) // chunks
    chunk = tl.program_id(2) % chunks
    d_lane, n_lane = _lanes(one, LD, LN, SD, SN)
    d_lane += tl.program_id(0) * SD * LD
    d_step = tl.arange(0, SD)[None, None, :]
    n_step = tl.arange(0, SN)[None, None, :]
    if not VECTOR:
        d_step *= one
        n_step *= one
    mask_d = (d_lane + d_step < D) if not EVEN_D else None
    mask_n = (n_lane + n_step < N) if not EVEN_N else None
    first_n = tl.arange(0, LN)[None, :, None] + (d_lane + d_step) * 0 == 0
    if not EVEN_D:
        first_n = first_n & mask_d
    pointers, mask = _state_tile(a_ptr + k * D * N, d_lane, n_lane, d_step, n_step, one, D, N, N, 1)
    a2 = tl.load(pointers, mask=mask, other=0.0) * LOG2_E
    row0 = image.to(tl.int64) * L
    x_lane = x_ptr + row0 * stride_x + d_lane
    delta_lane = delta_ptr + row0 * stride_delta + k * D + d_lane
    b_lane = b_ptr + row0 * stride_b + k * stride_bk + n_lane
    c_lane = c_ptr + row0 * stride_b + k * stride_bk + n_lane
    y_lane = y_ptr + (row0 * DIRECTIONS + k) * D + d_lane
    inner, step, first, sign = _walk(k, L, height, width)

    sequence = (image * DIRECTIONS + k).to(tl.int64)
    if HAS_ENTERING:
        tile = entering_ptr + (sequence * chunks + chunk) * N * D
        pointers, mask = _state_tile(tile, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
        h = tl.load(pointers, mask=mask, other=0.0)
    else:
        h = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)

    start = chunk * chunk_length
    end = tl.minimum(start + chunk_length, L)
    for t0 in range(start, end, INTERVAL):
        if SAVE:
            tile = boundary_ptr + (sequence * intervals + t0 // INTERVAL) * N * D
            pointers, mask = _state_tile(tile, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
            tl.store(pointers, h, mask=mask)
        for t1 in range(t0, tl.minimum(t0 + INTERVAL, end), T):
            position = t1 % inner
            raster = position * step + t1 // inner
            rows = ()
            xs = ()
            deltas = ()
            bs = ()
            cs = ()
            for i in tl.static_range(T):
                row = (first + sign * raster).to(tl.int64 if WIDE else tl.int32)
                md = mask_d
                mn = mask_n
                if not EVEN_L:
                    md = (t1 + i < L) & (d_lane + d_step < D)
                    mn = (t1 + i < L) & (n_lane + n_step < N)
                zero = None if md is None else 0.0
                zero_n = None if mn is None else 0.0
                xs += (tl.load((x_lane + row * stride_x) + d_step, mask=md, other=zero),)
                deltas += (tl.load((delta_lane + row * stride_delta) + d_step, mask=md, other=zero),)
                bs += (tl.load((b_lane + row * stride_b) + n_step, mask=mn, other=zero_n),)
                cs += (tl.load((c_lane + row * stride_b) + n_step, mask=mn, other=zero_n),)
                rows += (row,)
                position, raster = _next(position, raster, inner, step)
            tl.debug_barrier()
            for i in tl.static_range(T):
                delta = deltas[i].to(tl.float32)
                u = xs[i].to(tl.float32) * delta
                decay = tl.exp2(_over_states(delta) * a2)
                h = h * decay + _over_states(u) * _over_channels(bs[i].to(tl.float32))
                y = _sum_states(h * _over_channels(cs[i].to(tl.float32)))
                inside = first_n
                if not EVEN_L:
                    inside = inside & (t1 + i < L)
                tl.store((y_lane + rows[i] * (DIRECTIONS * D)) + d_step, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["one"])
def backward_kernel(
    gy_ptr, x_ptr, delta_ptr, a_ptr, b_ptr, c_ptr, boundary_ptr, flow_ptr, scratch_ptr,
    gx_ptr, gdt_ptr, gb_ptr, gc_ptr, ga_ptr, gbias_ptr,
    L, D, N, height, width, chunks, chunk_length, intervals,
    stride_gy, stride_x, stride_delta, stride_b, stride_bk, stride_gdt, one,
    HAS_FLOW: tl.constexpr, INTERVAL: tl.constexpr,
    EVEN_L: tl.constexpr, EVEN_D: tl.constexpr, EVEN_N: tl.constexpr,
    VECTOR: tl.constexpr, WIDE: tl.constexpr,
    T: tl.constexpr, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr,
):  # fmt: skip
    """All gradients, one interval of tokens after the other from the end.

    Within an interval the states are recomputed from its saved boundary, first as one state per T tokens (scratch, in
    cache), then T tokens at a time in registers. Written are gx `(batch, L, K, D)`, gdt `(batch, L, K, D)` (of dt:
    through softplus), and without atomics, for a deterministic sum afterwards: gb and gc per block of channels,
    `(blocks, batch, L, K, N)`, ga `(batch * chunks, K, N, D)` and gbias `(batch * chunks, K, D)`.
    """
    k = tl.program_id(1)
    image = tl.program_id(2) // chunks
    chunk = tl.program_id(2) % chunks
    d_lane, n_lane = _lanes(one, LD, LN, SD, SN)
    lane = (tl.arange(0, LD)[:, None, None] * LN + tl.arange(0, LN)[None, :, None]) * one
    d_lane += tl.program_id(0) * SD * LD
    d_step = tl.arange(0, SD)[None, None, :]
    n_step = tl.arange(0, SN)[None, None, :]
    if not VECTOR:
        d_step *= one
        n_step *= one
    mask_d = (d_lane + d_step < D) if not EVEN_D else None
    mask_n = (n_lane + n_step < N) if not EVEN_N else None
    first_n = tl.arange(0, LN)[None, :, None] + (d_lane + d_step) * 0 == 0
    first_d = tl.arange(0, LD)[:, None, None] + (n_lane + n_step) * 0 == 0
    if not EVEN_D:
        first_n = first_n & mask_d
    if not EVEN_N:
        first_d = first_d & mask_n
    pointers, mask = _state_tile(a_ptr + k * D * N, d_lane, n_lane, d_step, n_step, one, D, N, N, 1)
    a2 = tl.load(pointers, mask=mask, other=0.0) * LOG2_E
    row0 = image.to(tl.int64) * L
    gy_lane = gy_ptr + row0 * stride_gy + d_lane
    x_lane = x_ptr + row0 * stride_x + d_lane
    delta_lane = delta_ptr + row0 * stride_delta + k * D + d_lane
    b_lane = b_ptr + row0 * stride_b + k * stride_bk + n_lane
    c_lane = c_ptr + row0 * stride_b + k * stride_bk + n_lane
    gx_lane = gx_ptr + (row0 * DIRECTIONS + k) * D + d_lane
    gdt_lane = gdt_ptr + row0 * stride_gdt + k * D + d_lane
    images = tl.num_programs(2) // chunks
    block_row0 = (tl.program_id(0).to(tl.int64) * images + image) * L
    gb_lane = gb_ptr + (block_row0 * DIRECTIONS + k) * N + n_lane
    gc_lane = gc_ptr + (block_row0 * DIRECTIONS + k) * N + n_lane
    inner, step, first, sign = _walk(k, L, height, width)
    program = (tl.program_id(2) * tl.num_programs(1) + k) * tl.num_programs(0) + tl.program_id(0)
    tile_step = _over_states(tl.arange(0, SD)[None, None, :] * SN) + _over_channels(tl.arange(0, SN)[None, None, :])
    scratch_lane = (
        scratch_ptr + program.to(tl.int64) * (INTERVAL // T * LD * LN * SD * SN) + lane[:, :, :, None]
        + tile_step * (LD * LN)
    )  # fmt: skip

    sequence = (image * DIRECTIONS + k).to(tl.int64)
    if HAS_FLOW:
        tile = flow_ptr + (sequence * chunks + chunk) * N * D
        pointers, mask = _state_tile(tile, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
        flow = tl.load(pointers, mask=mask, other=0.0)
    else:
        flow = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)
    ga = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)
    gbias = tl.zeros([LD, LN, SD], dtype=tl.float32)

    start = chunk * chunk_length
    end = tl.minimum(start + chunk_length, L)
    steps = (end - start + INTERVAL - 1) // INTERVAL
    for s in range(steps):
        t0 = start + (steps - 1 - s) * INTERVAL
        groups = (tl.minimum(end - t0, INTERVAL) + T - 1) // T
        tile = boundary_ptr + (sequence * intervals + t0 // INTERVAL) * N * D
        pointers, mask = _state_tile(tile, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
        h = tl.load(pointers, mask=mask, other=0.0)

        tl.store(scratch_lane, h)
        for g in range(groups - 1):
            t1 = t0 + g * T
            position = t1 % inner
            raster = position * step + t1 // inner
            xs = ()
            deltas = ()
            bs = ()
            for _ in tl.static_range(T):
                row = (first + sign * raster).to(tl.int64 if WIDE else tl.int32)
                zero = None if EVEN_D else 0.0
                zero_n = None if EVEN_N else 0.0
                xs += (tl.load((x_lane + row * stride_x) + d_step, mask=mask_d, other=zero),)
                deltas += (tl.load((delta_lane + row * stride_delta) + d_step, mask=mask_d, other=zero),)
                bs += (tl.load((b_lane + row * stride_b) + n_step, mask=mask_n, other=zero_n),)
                position, raster = _next(position, raster, inner, step)
            tl.debug_barrier()
            for i in tl.static_range(T):
                delta = deltas[i].to(tl.float32)
                u = xs[i].to(tl.float32) * delta
                decay = tl.exp2(_over_states(delta) * a2)
                h = h * decay + _over_states(u) * _over_channels(bs[i].to(tl.float32))
            tl.store(scratch_lane + (g + 1) * (LD * LN * SD * SN), h)

        for j in range(groups):
            g = groups - 1 - j
            t1 = t0 + g * T
            h = tl.load(scratch_lane + g * (LD * LN * SD * SN))
            position = t1 % inner
            raster = position * step + t1 // inner
            rows = ()
            gys = ()
            xs = ()
            deltas = ()
            bs = ()
            cs = ()
            for i in tl.static_range(T):
                row = (first + sign * raster).to(tl.int64 if WIDE else tl.int32)
                md = mask_d
                mn = mask_n
                if not EVEN_L:
                    md = (t1 + i < L) & (d_lane + d_step < D)
                    mn = (t1 + i < L) & (n_lane + n_step < N)
                zero = None if md is None else 0.0
                zero_n = None if mn is None else 0.0
                xs += (tl.load((x_lane + row * stride_x) + d_step, mask=md, other=zero),)
                deltas += (tl.load((delta_lane + row * stride_delta) + d_step, mask=md, other=zero),)
                bs += (tl.load((b_lane + row * stride_b) + n_step, mask=mn, other=zero_n),)
                gys += (tl.load((gy_lane + row * stride_gy) + d_step, mask=md, other=zero),)
                cs += (tl.load((c_lane + row * stride_b) + n_step, mask=mn, other=zero_n),)
                rows += (row,)
                position, raster = _next(position, raster, inner, step)
            tl.debug_barrier()
            decays = ()
            carried = ()
            for i in tl.static_range(T):
                delta = deltas[i].to(tl.float32)
                u = xs[i].to(tl.float32) * delta
                decay = tl.exp2(_over_states(delta) * a2)
                carry = h * decay
                decays += (decay,)
                carried += (carry,)
                h = carry + _over_states(u) * _over_channels(bs[i].to(tl.float32))
                gc = _sum_channels(h * _over_states(gys[i].to(tl.float32)))
                inside = first_d
                if not EVEN_L:
                    inside = inside & (t1 + i < L)
                tl.store((gc_lane + rows[i] * (DIRECTIONS * N)) + n_step, gc.to(gc_ptr.dtype.element_ty), mask=inside)
            for i in tl.static_range(T - 1, -1, -1):
                delta = deltas[i].to(tl.float32)
                x = xs[i].to(tl.float32)
                gh = flow + _over_states(gys[i].to(tl.float32)) * _over_channels(cs[i].to(tl.float32))
                flow = gh * decays[i]
                gb = _sum_channels(gh * _over_states(x * delta))
                gu = _sum_states(gh * _over_channels(bs[i].to(tl.float32)))
                gexponent = gh * carried[i]
                ga += gexponent * _over_states(delta)
                gdelta = _sum_states(gexponent * a2) * LN_2 + gu * x
                # The derivative of softplus, 1 - exp(-delta); by its series where the difference would cancel.
                small = delta * (1.0 - delta * (0.5 - delta * (0.16666667 - delta * 0.041666668)))
                gdt = gdelta * tl.where(delta < 0.03, small, 1.0 - tl.exp2(-delta * LOG2_E))
                gbias += gdt
                in_n = first_n
                in_d = first_d
                if not EVEN_L:
                    in_n = in_n & (t1 + i < L)
                    in_d = in_d & (t1 + i < L)
                row = rows[i]
                tl.store((gb_lane + row * (DIRECTIONS * N)) + n_step, gb.to(gb_ptr.dtype.element_ty), mask=in_d)
                gx = (gu * delta).to(gx_ptr.dtype.element_ty)
                tl.store((gx_lane + row * (DIRECTIONS * D)) + d_step, gx, mask=in_n)
                tl.store((gdt_lane + row * stride_gdt) + d_step, gdt.to(gdt_ptr.dtype.element_ty), mask=in_n)

    index = tl.program_id(2).to(tl.int64) * DIRECTIONS + k
    pointers, mask = _state_tile(ga_ptr + index * N * D, d_lane, n_lane, d_step, n_step, one, D, N, 1, D)
    tl.store(pointers, ga, mask=mask)
    tl.store(gbias_ptr + index * D + (d_lane + d_step), gbias, mask=first_n)
