"""How the scan's Triton kernels tile a warp and load tokens.

A program is one warp and keeps the states of a block of channels in registers, as a 4-D tensor `[LD, LN, SD, SN]`:
channel d = ld * SD + sd, state n = ln * SN + sn. Triton lays the leading axes over the lanes of a warp and the trailing
ones into each lane's registers, so the four numbers choose how a warp tiles channels x states: a sum over states costs
log2(LN) shuffles for each of SD values, a sum over channels log2(LD) for each of SN. What depends on channels only is
`[LD, LN, SD]`, on states only `[LD, LN, SN]`, repeated over the other's lanes and loaded by one instruction, so that no
value ever passes through shared memory. Which axes are the lanes' is decided by the loads and stores: `load_tile` and
`store_tile` turn tiles so that every Triton decides as above.

Tokens stay in raster order in memory; `walk` says where a direction goes. A group of T tokens is loaded while
the group before it is computed, and waits in registers as it lies in memory: 16-bit values as 32-bit words of two
(PACKED), because a conversion would wait for the load, and for half the registers.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# Arguments of the scan's kernels whose value they are compiled for no more than for any other: `one`, see `lanes`, and
# numbers that no address of a vector depends on. A compilation takes seconds to half a minute, and stages of a network
# would differ in whether a number is 1 or a multiple of 16.
NOT_SPECIALISED = ("one", "L", "height", "width", "chunks", "chunk_length", "intervals")
# Among axes whose neighbours do not lie next to each other in memory, Triton deals a load's or a store's lanes to the
# first ones up to 3.6, and from 3.7 on to the last ones.
LANES_LAST = tl.constexpr(tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 7))


@triton.jit
def _reversed(v):
    """A tile with its axes in reverse: a mirror of what Triton decides. What has no axes as it is."""
    if len(v.shape) == 4:
        return tl.permute(v, (3, 2, 1, 0))
    elif len(v.shape) == 3:
        return tl.permute(v, (2, 1, 0))
    else:
        return v


@triton.jit
def load_tile(pointers, mask=None, other=None):
    """`tl.load` of `[LD, LN, S]` or `[LD, LN, SD, SN]`; the mask a tile or a number."""
    if LANES_LAST:
        mask = None if mask is None else _reversed(mask)
        return _reversed(tl.load(_reversed(pointers), mask=mask, other=other))
    else:
        return tl.load(pointers, mask=mask, other=other)


@triton.jit
def store_tile(pointers, values, mask=None):
    """`tl.store`, likewise."""
    if LANES_LAST:
        mask = None if mask is None else _reversed(mask)
        tl.store(_reversed(pointers), _reversed(values), mask=mask)
    else:
        tl.store(pointers, values, mask=mask)


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
    return load_tile(pointers, mask, 0.0)


@triton.jit
def store_states(base, block, states):
    """The block's states to `(N, D)` in memory."""
    D = block[4]
    pointers, mask = state_tile(base, block, 1, D)
    store_tile(pointers, states, mask)


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
def stream(pointers, stride, lane, step, size, one, EVEN: tl.constexpr, VECTOR: tl.constexpr, PACKED: tl.constexpr):
    """A tensor for `load_group` to load token by token: lanes' pointers, a token's stride, steps, unless EVEN a mask.

    With PACKED, 16-bit values are loaded as words of two, which `widen` takes apart. EVEN says that all of the block's
    channels (or states) exist.
    """
    lanes_pointers = pointers + lane
    # The number first: old Triton cannot compare its own constants the other way round.
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
            group += (load_tile((pointers + rows[i] * stride) + step, inside, zero),)
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
