"""Triton kernels of the selective scan with one state per channel: forward and backward, softplus inside.

A program walks one direction of one image for BLOCK_D channels, W * T tokens at a time, as tiles `[W, BLOCK_D]`: row w
has the w-th T of these tokens, one after the other. First each row scans its tokens as if nothing came before them; a
scan over the rows gives the state that enters each, from which its tokens are scanned again, in registers. So many
lanes work on a sequence though its state is a single number, and memory is read once. Names: `scan_forward`.
"""

import triton
import triton.language as tl

from nnunetv2_dsvm.ops.triton.kernels.elementwise import softplus
from nnunetv2_dsvm.ops.triton.kernels.scan_backward import softplus_slope
from nnunetv2_dsvm.ops.triton.kernels.sums import sums_of_tiles
from nnunetv2_dsvm.ops.triton.kernels.tiles import LOG2_E
from nnunetv2_dsvm.ops.triton.kernels.walk import group_rows, place_of, visited, walk


@triton.jit
def _chain(decay, h, lead, entry, next_decay, next_h, next_lead, next_entry):
    """Two pieces of a sequence as one: what each does to a state that enters it, up to its end and its last row."""
    return decay * next_decay, h * next_decay + next_h, decay * next_lead, h * next_lead + next_entry


@triton.jit
def _entering(decay, h, carry, ROW: tl.constexpr, REVERSE: tl.constexpr):
    """The states that enter the rows, of which `carry` enters ROW, the first, and what the last one leaves.

    Args:
        decay, h: of each row: by what it multiplies, and what it leaves without a state that enters.
        carry: the same in all rows, `[1, BLOCK_D]`.
    """
    w = tl.arange(0, h.shape[0])[:, None]
    first = w == ROW
    leaves = h + tl.where(first, decay * carry, 0.0)
    lead = tl.full(h.shape, 1.0, tl.float32)
    entry = tl.where(first, carry, 0.0)
    _, leaves, _, entry = tl.associative_scan((decay, leaves, lead, entry), 0, _chain, reverse=REVERSE)
    last = w == h.shape[0] - 1 - ROW
    return entry, tl.sum(tl.where(last, leaves, 0.0), axis=0, keep_dims=True)


@triton.jit
def _tokens(pointers, rows, stride, t, length, inside, EVEN_L: tl.constexpr):
    """The values at `rows` of a tensor, a tile each; 0 past the end, and outside unless `inside` is None."""
    values = ()
    for i in tl.static_range(len(rows)):
        mask = inside
        if not EVEN_L:
            mask = (t + i < length) if inside is None else inside & (t + i < length)
        values += (tl.load(pointers + rows[i] * stride, mask=mask, other=None if mask is None else 0.0),)
    return values


@triton.jit
def _delta(dt, bias, RAW: tl.constexpr):
    """delta of dt; what is delta already as it is."""
    return softplus(dt.to(tl.float32) + bias, dt.dtype) if RAW else dt.to(tl.float32)


@triton.jit(do_not_specialize=["one"])
def one_state_forward_kernel(
    x_ptr, dt_ptr, bias_ptr, a_ptr, b_ptr, c_ptr, y_ptr, saved_states_ptr,
    L, D, height, width, depth, intervals, stride_x, stride_dt, stride_b, stride_bk, one,
    RAW: tl.constexpr, SAVE: tl.constexpr, EVEN_L: tl.constexpr, STRAIGHT: tl.constexpr, EVEN_D: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr, ORDERS: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """y of each direction without the skip, `(batch, L, K, D)`; with SAVE also h before every W * T-th token.

    `one` is 1, but not to the compiler.
    """
    # Multiples of UNIT, which the compiler sees now: so it loads words.
    D = D // UNIT * UNIT
    stride_x = stride_x // UNIT * UNIT
    stride_dt = stride_dt // UNIT * UNIT
    k = tl.program_id(1)
    image = tl.program_id(2)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    w = tl.arange(0, W)[:, None]
    inside = d < D
    loaded = None if EVEN_D else inside
    a2 = tl.load(a_ptr + k * D + d, mask=inside, other=0.0) * LOG2_E
    bias = tl.load(bias_ptr + k * D + d, mask=inside, other=0.0)
    row0 = image.to(tl.int64) * L
    x_base = x_ptr + row0 * stride_x + d
    dt_base = dt_ptr + row0 * stride_dt + k * D + d
    b_base = b_ptr + row0 * stride_b + k * stride_bk
    c_base = c_ptr + row0 * stride_b + k * stride_bk
    y_base = y_ptr + (row0 * K + k) * D + d
    direction = walk(k, L, height, width, depth, ORDERS, STEP)
    length = visited(L, height, width, depth, STEP)

    carry = tl.zeros([1, BLOCK_D], dtype=tl.float32)  # the state
    t = w * T
    rows = group_rows(place_of(t, direction), L, direction, T, STRAIGHT, WIDE)[0]
    xs = _tokens(x_base, rows, stride_x, t, length, loaded, EVEN_L)
    dts = _tokens(dt_base, rows, stride_dt, t, length, loaded, EVEN_L)
    for t0 in range(0, length, W * T):
        t = t0 + w * T
        next_t = t + W * T
        next_rows = group_rows(place_of(next_t, direction), L, direction, T, STRAIGHT, WIDE)[0]
        next_xs = _tokens(x_base, next_rows, stride_x, next_t, length, loaded, EVEN_L)
        next_dts = _tokens(dt_base, next_rows, stride_dt, next_t, length, loaded, EVEN_L)
        # Always true, but not to the compiler, which would put this arithmetic in front of the loads above.
        if t0 * one >= 0:
            bs = _tokens(b_base, rows, stride_b, t, length, None, EVEN_L)
            cs = _tokens(c_base, rows, stride_b, t, length, None, EVEN_L)
            h = tl.zeros([W, BLOCK_D], dtype=tl.float32)
            time = tl.zeros([W, BLOCK_D], dtype=tl.float32)
            decays = ()
            inputs = ()
            for i in tl.static_range(T):
                delta = _delta(dts[i], bias, RAW)
                decays += (tl.exp2(delta * a2),)
                inputs += (xs[i].to(tl.float32) * delta * bs[i].to(tl.float32),)
                h = h * decays[i] + inputs[i]
                time += delta
            decay = tl.exp2(time * a2)
            h, carry = _entering(decay, h, carry, 0, False)
            if SAVE:
                interval = (image * K + k).to(tl.int64) * intervals + t0 // (W * T)
                tl.store(saved_states_ptr + interval * D + d + w * 0, h, mask=inside & (w == 0))
            for i in tl.static_range(T):
                h = h * decays[i] + inputs[i]
                y = (h * cs[i].to(tl.float32)).to(y_ptr.dtype.element_ty)
                stored = loaded
                if not EVEN_L:
                    stored = (t + i < length) & inside
                tl.store(y_base + rows[i] * (K * D), y, mask=stored)
        rows = next_rows
        xs = next_xs
        dts = next_dts


@triton.jit(do_not_specialize=["one"])
def one_state_backward_kernel(
    gy_ptr, x_ptr, dt_ptr, bias_ptr, a_ptr, b_ptr, c_ptr, saved_states_ptr,
    gx_ptr, gdt_ptr, gb_ptr, gc_ptr, ga_ptr, gbias_ptr,
    L, D, height, width, depth, intervals, stride_gy, stride_x, stride_dt, stride_b, stride_bk, stride_gdt, one,
    RAW: tl.constexpr, EVEN_L: tl.constexpr, STRAIGHT: tl.constexpr, EVEN_D: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr, ORDERS: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """All gradients, W * T tokens after the other from the end, each from the state saved before them.

    Written are gx `(batch, L, K, D)`, gdt `(batch, L, K, D)` (of dt: through softplus), and for a deterministic sum
    afterwards: gb and gc per block of channels, `(blocks, batch, L, K)`, ga and gbias `(batch, K, D)`.
    """
    # Multiples of UNIT, which the compiler sees now: so it loads words.
    D = D // UNIT * UNIT
    stride_x = stride_x // UNIT * UNIT
    stride_dt = stride_dt // UNIT * UNIT
    stride_gy = stride_gy // UNIT * UNIT
    stride_gdt = stride_gdt // UNIT * UNIT
    k = tl.program_id(1)
    image = tl.program_id(2)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    w = tl.arange(0, W)[:, None]
    inside = d < D
    loaded = None if EVEN_D else inside
    a = tl.load(a_ptr + k * D + d, mask=inside, other=0.0)
    a2 = a * LOG2_E
    bias = tl.load(bias_ptr + k * D + d, mask=inside, other=0.0)
    row0 = image.to(tl.int64) * L
    x_base = x_ptr + row0 * stride_x + d
    dt_base = dt_ptr + row0 * stride_dt + k * D + d
    gy_base = gy_ptr + row0 * stride_gy + d
    b_base = b_ptr + row0 * stride_b + k * stride_bk
    c_base = c_ptr + row0 * stride_b + k * stride_bk
    gx_base = gx_ptr + (row0 * K + k) * D + d
    gdt_base = gdt_ptr + row0 * stride_gdt + k * D + d
    block_row0 = (tl.program_id(0).to(tl.int64) * tl.num_programs(2) + image) * L * K + k
    saved_base = saved_states_ptr + (image * K + k).to(tl.int64) * intervals * D + d
    direction = walk(k, L, height, width, depth, ORDERS, STEP)
    length = visited(L, height, width, depth, STEP)

    carry = tl.zeros([1, BLOCK_D], dtype=tl.float32)  # dh
    ga = tl.zeros([W, BLOCK_D], dtype=tl.float32)
    gbias = tl.zeros([W, BLOCK_D], dtype=tl.float32)
    t = (intervals - 1) * (W * T) + w * T
    rows = group_rows(place_of(t, direction), L, direction, T, STRAIGHT, WIDE)[0]
    xs = _tokens(x_base, rows, stride_x, t, length, loaded, EVEN_L)
    dts = _tokens(dt_base, rows, stride_dt, t, length, loaded, EVEN_L)
    gys = _tokens(gy_base, rows, stride_gy, t, length, loaded, EVEN_L)
    for s in range(intervals):
        interval = intervals - 1 - s
        t = interval * (W * T) + w * T
        next_t = tl.maximum(interval - 1, 0) * (W * T) + w * T
        next_rows = group_rows(place_of(next_t, direction), L, direction, T, STRAIGHT, WIDE)[0]
        next_xs = _tokens(x_base, next_rows, stride_x, next_t, length, loaded, EVEN_L)
        next_dts = _tokens(dt_base, next_rows, stride_dt, next_t, length, loaded, EVEN_L)
        next_gys = _tokens(gy_base, next_rows, stride_gy, next_t, length, loaded, EVEN_L)
        # Always true, but not to the compiler, which would put this arithmetic in front of the loads above.
        if interval * one >= 0:
            bs = _tokens(b_base, rows, stride_b, t, length, None, EVEN_L)
            cs = _tokens(c_base, rows, stride_b, t, length, None, EVEN_L)
            entering = tl.load(saved_base + interval * D, mask=inside, other=0.0)
            h = tl.zeros([W, BLOCK_D], dtype=tl.float32)
            time = tl.zeros([W, BLOCK_D], dtype=tl.float32)
            deltas = ()
            decays = ()
            for i in tl.static_range(T):
                deltas += (_delta(dts[i], bias, RAW),)
                decays += (tl.exp2(deltas[i] * a2),)
                h = h * decays[i] + xs[i].to(tl.float32) * deltas[i] * bs[i].to(tl.float32)
                time += deltas[i]
            dh = tl.zeros([W, BLOCK_D], dtype=tl.float32)
            for i in tl.static_range(T - 1, -1, -1):
                dh = (dh + gys[i].to(tl.float32) * cs[i].to(tl.float32)) * decays[i]
            decay = tl.exp2(time * a2)
            h, _ = _entering(decay, h, entering, 0, False)
            dh, carry = _entering(decay, dh, carry, W - 1, True)
            befores = ()
            gcs = ()
            for i in tl.static_range(T):
                befores += (h,)
                h = h * decays[i] + xs[i].to(tl.float32) * deltas[i] * bs[i].to(tl.float32)
                gcs += (h * gys[i].to(tl.float32),)
            gbs = ()
            for i in tl.static_range(T - 1, -1, -1):
                x = xs[i].to(tl.float32)
                gh = dh + gys[i].to(tl.float32) * cs[i].to(tl.float32)
                dh = gh * decays[i]
                gexponent = dh * befores[i]
                ga += gexponent * deltas[i]
                gbs = (gh * (x * deltas[i]),) + gbs
                gu = gh * bs[i].to(tl.float32)
                gdt = (gexponent * a + gu * x) * softplus_slope(deltas[i], dt_ptr.dtype.element_ty)
                gbias += gdt
                gx = (gu * deltas[i]).to(gx_ptr.dtype.element_ty)
                gdt = gdt.to(gdt_ptr.dtype.element_ty)
                stored = loaded
                if not EVEN_L:
                    stored = (t + i < length) & inside
                tl.store(gx_base + rows[i] * (K * D), gx, mask=stored)
                tl.store(gdt_base + rows[i] * stride_gdt, gdt, mask=stored)
            tokens = t + tl.arange(0, T)[None, :]
            place = block_row0 + group_rows(place_of(tokens, direction), L, direction, 1, True, WIDE)[0][0] * K
            tl.store(gb_ptr + place, sums_of_tiles(gbs), mask=tokens < length)
            tl.store(gc_ptr + place, sums_of_tiles(gcs), mask=tokens < length)
        rows = next_rows
        xs = next_xs
        dts = next_dts
        gys = next_gys

    index = (image * K + k).to(tl.int64) * D + d
    tl.store(ga_ptr + index, tl.sum(ga, axis=0, keep_dims=True), mask=inside)
    tl.store(gbias_ptr + index, tl.sum(gbias, axis=0, keep_dims=True), mask=inside)
