"""Triton kernel of the backward of the selective scan in K directions; names as in `scan_forward`."""

import triton
import triton.language as tl

from nnunetv2_dsvm.ops.triton.kernels.tiles import (
    LN_2,
    LOG2_E,
    NOT_SPECIALISED,
    across_channels,
    across_states,
    channel_block,
    in_lane_channels,
    in_lane_states,
    load_group,
    load_states,
    load_tile,
    one_lane_of_channels,
    one_lane_of_states,
    over_channels,
    over_states,
    store_states,
    store_tile,
    stream,
    widen,
)
from nnunetv2_dsvm.ops.triton.kernels.walk import group_rows, place_of, visited, walk


@triton.jit
def softplus_slope(delta, dtype: tl.constexpr):
    """The derivative of softplus where its value is delta, 1 - exp(-delta).

    By its series where the difference would cancel; delta stored in 16 bit has fewer digits than are lost then.
    """
    slope = 1.0 - tl.exp2(-delta * LOG2_E)
    if dtype == tl.float32:
        series = delta * (1.0 - delta * (0.5 - delta * (0.16666667 - delta * 0.041666668)))
        slope = tl.where(delta < 0.03, series, slope)
    return slope


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def backward_kernel(
    gy_ptr, x_ptr, delta_ptr, a_ptr, b_ptr, c_ptr, saved_states_ptr, final_dh_ptr, scratch_ptr,
    gx_ptr, gdt_ptr, gb_ptr, gc_ptr, ga_ptr, gbias_ptr,
    L, D, N, height, width, depth, chunks, chunk_length, intervals,
    stride_gy, stride_x, stride_delta, stride_b, stride_bk, stride_gdt, one,
    HAS_FINAL_DH: tl.constexpr, INTERVAL: tl.constexpr,
    EVEN_L: tl.constexpr, STRAIGHT: tl.constexpr, EVEN_D: tl.constexpr, EVEN_N: tl.constexpr,
    VECTOR: tl.constexpr, PACKED: tl.constexpr, PACKED_STATES: tl.constexpr, WIDE: tl.constexpr,
    ORDERS: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr,
    T: tl.constexpr, LD: tl.constexpr, LN: tl.constexpr, SD: tl.constexpr, SN: tl.constexpr,
):  # fmt: skip
    """All gradients, one interval of tokens after the other from the end.

    A first pass over an interval walks the states from its saved state, leaves one per T tokens in scratch and makes
    gc; it also brings the interval's tokens into the cache. The second goes backward, T tokens at a time in registers.
    Written are gx `(batch, L, K, D)`, gdt `(batch, L, K, D)` (of dt: through softplus), and without atomics, for a
    deterministic sum afterwards: gb and gc per block of channels, `(blocks, batch, L, K, N)`, ga
    `(batch * chunks, K, N, D)` and gbias `(batch * chunks, K, D)`.
    """
    k = tl.program_id(1)
    image = tl.program_id(2) // chunks
    chunk = tl.program_id(2) % chunks
    block = channel_block(D, N, one, LD, LN, SD, SN, VECTOR)
    d_lane, n_lane, d_step, n_step = block[:4]
    first_n = one_lane_of_states(block, LN, EVEN_D)
    first_d = one_lane_of_channels(block, LD, EVEN_N)
    lane = (tl.arange(0, LD)[:, None, None] * LN + tl.arange(0, LN)[None, :, None]) * one
    a2 = load_states(a_ptr + k * D * N, block, N, 1) * LOG2_E
    row0 = image.to(tl.int64) * L
    x_base = x_ptr + row0 * stride_x
    delta_base = delta_ptr + row0 * stride_delta + k * D
    b_base = b_ptr + row0 * stride_b + k * stride_bk
    c_base = c_ptr + row0 * stride_b + k * stride_bk
    gy_base = gy_ptr + row0 * stride_gy
    first_streams = (
        stream(x_base, stride_x, d_lane, d_step, D, one, EVEN_D, VECTOR, PACKED),
        stream(delta_base, stride_delta, d_lane, d_step, D, one, EVEN_D, VECTOR, PACKED),
        stream(b_base, stride_b, n_lane, n_step, N, one, EVEN_N, VECTOR, PACKED_STATES),
        stream(gy_base, stride_gy, d_lane, d_step, D, one, EVEN_D, VECTOR, PACKED),
    )
    streams = first_streams + (stream(c_base, stride_b, n_lane, n_step, N, one, EVEN_N, VECTOR, PACKED_STATES),)
    gx_lane = gx_ptr + (row0 * K + k) * D + d_lane
    gdt_lane = gdt_ptr + row0 * stride_gdt + k * D + d_lane
    images = tl.num_programs(2) // chunks
    block_row0 = (tl.program_id(0).to(tl.int64) * images + image) * L
    gb_lane = gb_ptr + (block_row0 * K + k) * N + n_lane
    gc_lane = gc_ptr + (block_row0 * K + k) * N + n_lane
    direction = walk(k, L, height, width, depth, ORDERS, STEP)
    length = visited(L, height, width, depth, STEP)
    program = (tl.program_id(2) * tl.num_programs(1) + k) * tl.num_programs(0) + tl.program_id(0)
    # Registers of a lane that lie together, SN, stay together; lanes lie next to each other around them.
    scratch_lane = scratch_ptr + program.to(tl.int64) * (INTERVAL // T * LD * LN * SD * SN)
    scratch_lane += lane[:, :, :, None] * SN + over_channels(tl.arange(0, SN)[None, None, :])
    scratch_lane += over_states(tl.arange(0, SD)[None, None, :]) * (LD * LN * SN)

    sequence = (image * K + k).to(tl.int64)
    if HAS_FINAL_DH:
        dh = load_states(final_dh_ptr + (sequence * chunks + chunk) * N * D, block, 1, D)
    else:
        dh = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)
    ga = tl.zeros([LD, LN, SD, SN], dtype=tl.float32)
    gbias = tl.zeros([LD, LN, SD], dtype=tl.float32)

    start = chunk * chunk_length
    end = tl.minimum(start + chunk_length, length)
    intervals_here = (end - start + INTERVAL - 1) // INTERVAL
    for s in range(intervals_here):
        t0 = start + (intervals_here - 1 - s) * INTERVAL
        groups = (tl.minimum(end - t0, INTERVAL) + T - 1) // T
        h = load_states(saved_states_ptr + (sequence * intervals + t0 // INTERVAL) * N * D, block, 1, D)

        rows, place = group_rows(place_of(t0, direction), L, direction, T, STRAIGHT, WIDE)
        tokens = load_group(first_streams, rows, t0, length, EVEN_L)
        for g in range(groups):
            t = t0 + (g + 1) * T
            next_rows, place = group_rows(place, L, direction, T, STRAIGHT, WIDE)
            next_tokens = load_group(first_streams, next_rows, t, length, EVEN_L)
            # Always true, but not to the compiler, which would put this arithmetic in front of the loads above.
            if rows[0] >= 0:
                xs, deltas, bs, gys = tokens
                store_tile(scratch_lane + g * (LD * LN * SD * SN), h)
                parts = ()
                for i in tl.static_range(T):
                    delta = widen(deltas[i], delta_ptr.dtype.element_ty)
                    u = widen(xs[i], x_ptr.dtype.element_ty) * delta
                    gy = widen(gys[i], gy_ptr.dtype.element_ty)
                    b = over_channels(widen(bs[i], b_ptr.dtype.element_ty))
                    h = h * tl.exp2(over_states(delta) * a2) + over_states(u) * b
                    parts += (in_lane_channels(h * over_states(gy)),)
                # Shuffles of all tokens together, so that their latencies overlap; so below.
                for i in tl.static_range(T):
                    inside = first_d
                    if not EVEN_L:
                        inside = inside & (t0 + g * T + i < length)
                    gc = across_channels(parts[i])
                    store_tile((gc_lane + rows[i] * (K * N)) + n_step, gc, inside)
            rows = next_rows
            tokens = next_tokens

        t1 = t0 + (groups - 1) * T
        rows, place = group_rows(place_of(t1, direction), L, direction, T, STRAIGHT, WIDE)
        tokens = load_group(streams, rows, t1, length, EVEN_L)
        h = load_tile(scratch_lane + (groups - 1) * (LD * LN * SD * SN))
        for j in range(groups):
            t1 = t0 + (groups - 1 - j) * T
            g = tl.maximum(groups - 2 - j, 0)
            next_rows, place = group_rows(place_of(t0 + g * T, direction), L, direction, T, STRAIGHT, WIDE)
            # Always true, but not to the compiler, which would put this arithmetic in front of the loads above.
            if rows[0] >= 0:
                xs, deltas, bs, gys, cs = tokens
                decays = ()
                befores = ()
                for i in tl.static_range(T):
                    delta = widen(deltas[i], delta_ptr.dtype.element_ty)
                    decay = tl.exp2(over_states(delta) * a2)
                    decays += (decay,)
                    befores += (h,)
                    if i < T - 1:
                        u = widen(xs[i], x_ptr.dtype.element_ty) * delta
                        h = h * decay + over_states(u) * over_channels(widen(bs[i], b_ptr.dtype.element_ty))
                parts = ()  # of the last token first
                for i in tl.static_range(T - 1, -1, -1):
                    delta = widen(deltas[i], delta_ptr.dtype.element_ty)
                    x = widen(xs[i], x_ptr.dtype.element_ty)
                    gy = widen(gys[i], gy_ptr.dtype.element_ty)
                    b = over_channels(widen(bs[i], b_ptr.dtype.element_ty))
                    c = over_channels(widen(cs[i], c_ptr.dtype.element_ty))
                    gh = dh + over_states(gy) * c
                    dh = gh * decays[i]
                    gexponent = dh * befores[i]
                    ga += gexponent * over_states(delta)
                    gb = in_lane_channels(gh * over_states(x * delta))
                    parts += ((gb, in_lane_states(gh * b), in_lane_states(gexponent * a2)),)
                # Here registers are free again, and the sums below take as long as a load.
                next_tokens = load_group(streams, next_rows, t0 + g * T, length, EVEN_L)
                h = load_tile(scratch_lane + g * (LD * LN * SD * SN))
                for i in tl.static_range(T - 1, -1, -1):
                    delta = widen(deltas[i], delta_ptr.dtype.element_ty)
                    gb, gu, gexponent = parts[T - 1 - i]
                    gu = across_states(gu)
                    gdelta = across_states(gexponent) * LN_2 + gu * widen(xs[i], x_ptr.dtype.element_ty)
                    gdt = gdelta * softplus_slope(delta, delta_ptr.dtype.element_ty)
                    gbias += gdt
                    in_n = first_n
                    in_d = first_d
                    if not EVEN_L:
                        in_n = in_n & (t1 + i < length)
                        in_d = in_d & (t1 + i < length)
                    row = rows[i]
                    store_tile((gb_lane + row * (K * N)) + n_step, across_channels(gb), in_d)
                    gx = (gu * delta).to(gx_ptr.dtype.element_ty)
                    store_tile((gx_lane + row * (K * D)) + d_step, gx, in_n)
                    store_tile((gdt_lane + row * stride_gdt) + d_step, gdt.to(gdt_ptr.dtype.element_ty), in_n)
                tokens = next_tokens
            rows = next_rows

    index = tl.program_id(2).to(tl.int64) * K + k
    store_states(ga_ptr + index * N * D, block, ga)
    store_tile(gbias_ptr + index * D + (d_lane + d_step), gbias, first_n)
