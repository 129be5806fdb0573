"""Triton kernels: LayerNorm over the last axis, optionally times SiLU of a gate, and of the scan's directions at once.

Statistics and arithmetic in fp32.

With MERGING the argument, with EXPANDING the result lies in a finer grid `(images, S0 depth, S1 H, S2 W, C)`. A coarse
token `(images, depth, H, W)` is one row of S0 S1 S2 C channels, or as many rows of C. All others lie row by row.
"""

import triton
import triton.language as tl

_SIZES = ["H", "W"]  # their values would only mean more variants to compile


@triton.jit
def _first_neighbour(token, H, W, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr):
    """The place in the fine grid of a coarse token's first neighbour, in tokens."""
    line = token // W
    if S0 == 1:  # whatever lies above H counts as images
        fine_line = line * S1
    else:
        fine_line = line // H * (S0 * S1 * H) + line % H * S1
    return fine_line * (S2 * W) + token % W * S2


@triton.jit
def _to_neighbour(n, H, W, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr, MERGING: tl.constexpr):
    """From the first neighbour to the n-th; merging counts along the first axis fastest, expanding along the last."""
    if MERGING:
        return (n % S0 * (S1 * H) + n // S0 % S1) * (S2 * W) + n // (S0 * S1)
    else:
        return (n // (S1 * S2) * (S1 * H) + n // S2 % S1) * (S2 * W) + n % S2


@triton.jit
def _places(
    r, d, C, H, W, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    MERGING: tl.constexpr, EXPANDING: tl.constexpr,
):  # fmt: skip
    """Where channel d of row r of the norm is in its argument and in its result."""
    if MERGING:
        D = C * (S0 * S1 * S2)
        first = _first_neighbour(r.to(tl.int32), H, W, S0, S1, S2).to(tl.int64)
        neighbour = _to_neighbour(d // C, H, W, S0, S1, S2, True).to(tl.int64)
        return first * C + (neighbour * C + d % C), r * D + d
    elif EXPANDING:
        row = r.to(tl.int32)
        neighbours: tl.constexpr = S0 * S1 * S2
        first = _first_neighbour(row // neighbours, H, W, S0, S1, S2)
        neighbour = _to_neighbour(row % neighbours, H, W, S0, S1, S2, False)
        return r * C + d, (first + neighbour).to(tl.int64) * C + d
    else:
        return r * C + d, r * C + d


@triton.jit
def _normalised(x, inside, D, eps):
    mean = tl.sum(x, axis=1) / D
    centred = tl.where(inside, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / D + eps)
    return centred * rstd[:, None], rstd


@triton.jit(do_not_specialize=_SIZES)
def norm_forward_kernel(
    x_ptr, weight_ptr, bias_ptr, gate_ptr, out_ptr, rows, units, stride_gate, eps, H, W,
    GATED: tl.constexpr, MERGING: tl.constexpr, EXPANDING: tl.constexpr,
    S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    UNIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out = (LayerNorm(x) * weight + bias) * silu(gate), `(rows, D)`; the gate has a row stride of its own.

    C = units * UNIT, so that the compiler sees how many channels one load may take.
    """
    C = units * UNIT
    D = C * (S0 * S1 * S2) if MERGING else C
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (r < rows) & (d < D)
    of_x, of_out = _places(r, d, C, H, W, S0, S1, S2, MERGING, EXPANDING)
    x = tl.load(x_ptr + of_x, mask=inside, other=0.0).to(tl.float32)
    column = tl.arange(0, BLOCK_D)  # of one axis: of two, rows would be turned to the layout of their loads, and back
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0)[None, :]
    bias = tl.load(bias_ptr + column, mask=column < D, other=0.0)[None, :]
    normalised, _ = _normalised(x, inside, D, eps)
    out = normalised * weight + bias
    if GATED:
        gate = tl.load(gate_ptr + r * stride_gate + d, mask=inside, other=0.0).to(tl.float32)
        out *= gate * tl.sigmoid(gate)
    tl.store(out_ptr + of_out, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def merge_norm_kernel(
    parts_ptr, skip_ptr, scale_ptr, weight_ptr, bias_ptr, gate_ptr, merged_ptr, out_ptr,
    rows, units, stride_skip, eps,
    KEEP: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`merge_kernel`, whose result KEEP leaves in memory, and `norm_forward_kernel`, gated, of it.

    The norm reads what `merge_kernel` would have written: rounded to the type of the parts.
    """
    D = units * UNIT
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (r < rows) & (d < D)
    scale = tl.load(scale_ptr + d, mask=d < D, other=0.0).to(tl.float32)
    for k in tl.static_range(1, K):
        scale += tl.load(scale_ptr + k * D + d, mask=d < D, other=0.0).to(tl.float32)
    merged = tl.load(skip_ptr + r * stride_skip + d, mask=inside, other=0.0).to(tl.float32) * scale
    for k in tl.static_range(K):
        merged += tl.load(parts_ptr + (r * K + k) * D + d, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + r * D + d, mask=inside, other=0.0).to(tl.float32)
    rounded = merged.to(parts_ptr.dtype.element_ty)
    if KEEP:
        tl.store(merged_ptr + r * D + d, rounded, mask=inside)
    column = tl.arange(0, BLOCK_D)
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0)[None, :]
    bias = tl.load(bias_ptr + column, mask=column < D, other=0.0)[None, :]
    normalised, _ = _normalised(rounded.to(tl.float32), inside, D, eps)
    out = (normalised * weight + bias) * (gate * tl.sigmoid(gate))
    tl.store(out_ptr + r * D + d, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def norm_backward_kernel(
    grad_ptr, x_ptr, weight_ptr, bias_ptr, gate_ptr, gx_ptr, ggate_ptr, gweight_ptr, gbias_ptr,
    rows, units, stride_gate, eps, blocks, H, W,
    GATED: tl.constexpr, MERGING: tl.constexpr, EXPANDING: tl.constexpr,
    S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    UNIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients; those of weight and bias per program, `(programs, D)`, for a deterministic sum afterwards."""
    C = units * UNIT
    D = C * (S0 * S1 * S2) if MERGING else C
    d = tl.arange(0, BLOCK_D)[None, :]
    weight = tl.load(weight_ptr + d, mask=d < D, other=0.0)
    bias = tl.load(bias_ptr + d, mask=d < D, other=0.0)
    gweight = tl.zeros([BLOCK_R, BLOCK_D], dtype=tl.float32)
    gbias = tl.zeros([BLOCK_R, BLOCK_D], dtype=tl.float32)
    programs = tl.num_programs(0)
    for i in range(tl.cdiv(blocks - tl.program_id(0), programs)):
        r = (tl.program_id(0) + i * programs).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        inside = (r < rows) & (d < D)
        of_x, of_grad = _places(r, d, C, H, W, S0, S1, S2, MERGING, EXPANDING)
        x = tl.load(x_ptr + of_x, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + of_grad, mask=inside, other=0.0).to(tl.float32)
        normalised, rstd = _normalised(x, inside, D, eps)
        if GATED:
            gate = tl.load(gate_ptr + r * stride_gate + d, mask=inside, other=0.0).to(tl.float32)
            sigmoid = tl.sigmoid(gate)
            ggate = grad * (normalised * weight + bias) * sigmoid * (1.0 + gate * (1.0 - sigmoid))
            tl.store(ggate_ptr + r * D + d, ggate.to(ggate_ptr.dtype.element_ty), mask=inside)
            grad *= gate * sigmoid
        gweight += grad * normalised
        gbias += grad
        grad *= weight
        along = tl.sum(grad * normalised, axis=1) / D
        gx = (grad - normalised * along[:, None] - (tl.sum(grad, axis=1) / D)[:, None]) * rstd[:, None]
        tl.store(gx_ptr + of_x, gx.to(gx_ptr.dtype.element_ty), mask=inside)
    column = tl.arange(0, BLOCK_D)
    tl.store(gweight_ptr + tl.program_id(0) * D + column, tl.sum(gweight, axis=0), mask=column < D)
    tl.store(gbias_ptr + tl.program_id(0) * D + column, tl.sum(gbias, axis=0), mask=column < D)
