"""Triton kernels around the scan: softplus before it, sums of the directions and with the residual stream after it."""

import triton
import triton.language as tl

from nnunetv2_dsvm.ops.triton.kernels.tiles import LOG2_E


@triton.jit
def softplus(raw, dtype: tl.constexpr):
    """max(raw, 0) + log(1 + e) for e = exp(-|raw|), in fp32; of an argument of `dtype` 16 bit to 9e-6 of the value.

    log(1 + e) / e is a minimax polynomial: Triton has no fast logarithm, and that of 1 + e would lose the digits of e.
    """
    e = tl.exp2(-tl.abs(raw) * LOG2_E)
    if dtype == tl.float32:
        q = 0.0782259336 - e * (0.0295052275 - e * 0.00523269146)
        q = 0.333190968 - e * (0.24842982 - e * (0.19106006 - e * (0.136632442 - e * q)))
        q = 0.99999997 - e * (0.499994931 - e * q)
    else:
        q = 0.325206671 - e * (0.210048664 - e * (0.101222255 - e * 0.0238691397))
        q = 0.999991598 - e * (0.499361364 - e * q)
    return tl.maximum(raw, 0.0) + e * q


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
    delta = softplus(raw, tl.float32)
    tl.store(delta_ptr + r * stride_delta + k * D + d, delta.to(delta_ptr.dtype.element_ty), mask=mask)


@triton.jit
def merge_kernel(
    parts_ptr, skip_ptr, scale_ptr, other_ptr, out_ptr, dot_ptr, rows, D, stride_skip,
    DOT: tl.constexpr, K: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The sum of `(rows, K, D)` over K plus skip times the sum of scale `(K, D)` over K, `(rows, D)`.

    With DOT also the sum of skip * other over this program's rows, `(programs, D)`.
    """
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    mask = (r < rows) & (d < D)
    skip = tl.load(skip_ptr + r * stride_skip + d, mask=mask, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + d, mask=d < D, other=0.0).to(tl.float32)
    for k in tl.static_range(1, K):
        scale += tl.load(scale_ptr + k * D + d, mask=d < D, other=0.0).to(tl.float32)
    out = skip * scale
    for k in tl.static_range(K):
        out += tl.load(parts_ptr + (r * K + k) * D + d, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + r * D + d, out.to(out_ptr.dtype.element_ty), mask=mask)
    if DOT:
        other = tl.load(other_ptr + r * D + d, mask=mask, other=0.0).to(tl.float32)
        dot = tl.sum(skip * other, axis=0)
        column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        tl.store(dot_ptr + tl.program_id(0).to(tl.int64) * D + column, dot, mask=column < D)


@triton.jit
def scaled_sum_kernel(x_ptr, branch_ptr, scale_ptr, out_ptr, elements, BLOCK: tl.constexpr):
    """x + scale * branch of images of so many elements, which have a factor each; without x the second term."""
    image = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = image * elements + i
    scale = tl.load(scale_ptr + image).to(tl.float32)
    out = scale * tl.load(branch_ptr + place, mask=i < elements, other=0.0).to(tl.float32)
    if x_ptr is not None:
        out += tl.load(x_ptr + place, mask=i < elements, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=i < elements)
