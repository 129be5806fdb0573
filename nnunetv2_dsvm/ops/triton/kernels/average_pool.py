"""Triton kernel: means over windows of a map with channels last, and their gradient. Sums in fp32."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["pixels", "w"])
def average_pool_kernel(
    fine_ptr, coarse_ptr, pixels, w, C,
    SY: tl.constexpr, SX: tl.constexpr, BACKWARD: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The coarse map `(pixels, C)`, of rows of w, from the fine one, which has SY * SX times as many pixels.

    With BACKWARD instead the fine one's gradient from the coarse one's.
    """
    p = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    inside = (p < pixels) & (c < C)
    coarse = coarse_ptr + p * C + c
    # Rows of all images are numbered through: no window reaches over an image's border.
    fine = fine_ptr + (p // w * SY * (w * SX) + p % w * SX) * C + c
    share: tl.constexpr = 1.0 / (SY * SX)
    if BACKWARD:
        grad = (tl.load(coarse, mask=inside, other=0.0).to(tl.float32) * share).to(fine_ptr.dtype.element_ty)
        for y in range(SY):
            for x in tl.static_range(SX):
                tl.store(fine + (y * (w * SX) + x) * C, grad, mask=inside)
    else:
        total = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
        for y in range(SY):
            for x in tl.static_range(SX):
                total += tl.load(fine + (y * (w * SX) + x) * C, mask=inside, other=0.0).to(tl.float32)
        tl.store(coarse, (total * share).to(coarse_ptr.dtype.element_ty), mask=inside)
