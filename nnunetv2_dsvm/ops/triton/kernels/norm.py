"""Triton kernels: LayerNorm over the last axis, optionally times SiLU of a gate, and of the scan's directions at once.

Statistics and arithmetic in fp32.
"""

import triton
import triton.language as tl


@triton.jit
def _normalised(x, inside, D, eps):
    mean = tl.sum(x, axis=1) / D
    centred = tl.where(inside, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / D + eps)
    return centred * rstd[:, None], rstd


@triton.jit
def norm_forward_kernel(
    x_ptr, weight_ptr, bias_ptr, gate_ptr, out_ptr, rows, units, stride_gate, eps,
    GATED: tl.constexpr, UNIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out = (LayerNorm(x) * weight + bias) * silu(gate), `(rows, D)`; the gate has a row stride of its own.

    D = units * UNIT, so that the compiler sees how many channels one load may take.
    """
    D = units * UNIT
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (r < rows) & (d < D)
    x = tl.load(x_ptr + r * D + d, mask=inside, other=0.0).to(tl.float32)
    column = tl.arange(0, BLOCK_D)  # of one axis: of two, rows would be turned to the layout of their loads, and back
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0)[None, :]
    bias = tl.load(bias_ptr + column, mask=column < D, other=0.0)[None, :]
    normalised, _ = _normalised(x, inside, D, eps)
    out = normalised * weight + bias
    if GATED:
        gate = tl.load(gate_ptr + r * stride_gate + d, mask=inside, other=0.0).to(tl.float32)
        out *= gate * tl.sigmoid(gate)
    tl.store(out_ptr + r * D + d, out.to(out_ptr.dtype.element_ty), mask=inside)


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


@triton.jit
def norm_backward_kernel(
    grad_ptr, x_ptr, weight_ptr, bias_ptr, gate_ptr, gx_ptr, ggate_ptr, gweight_ptr, gbias_ptr,
    rows, units, stride_gate, eps, blocks,
    GATED: tl.constexpr, UNIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients; those of weight and bias per program, `(programs, D)`, for a deterministic sum afterwards."""
    D = units * UNIT
    d = tl.arange(0, BLOCK_D)[None, :]
    weight = tl.load(weight_ptr + d, mask=d < D, other=0.0)
    bias = tl.load(bias_ptr + d, mask=d < D, other=0.0)
    gweight = tl.zeros([BLOCK_R, BLOCK_D], dtype=tl.float32)
    gbias = tl.zeros([BLOCK_R, BLOCK_D], dtype=tl.float32)
    programs = tl.num_programs(0)
    for i in range(tl.cdiv(blocks - tl.program_id(0), programs)):
        r = (tl.program_id(0) + i * programs).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        inside = (r < rows) & (d < D)
        x = tl.load(x_ptr + r * D + d, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + r * D + d, mask=inside, other=0.0).to(tl.float32)
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
        tl.store(gx_ptr + r * D + d, gx.to(gx_ptr.dtype.element_ty), mask=inside)
    column = tl.arange(0, BLOCK_D)
    tl.store(gweight_ptr + tl.program_id(0) * D + column, tl.sum(gweight, axis=0), mask=column < D)
    tl.store(gbias_ptr + tl.program_id(0) * D + column, tl.sum(gbias, axis=0), mask=column < D)
