"""Triton kernel: depthwise convolution of channels-last images and volumes, SiLU after it or not.

A program walks down some rows of G strips of COLUMNS pixels, for a block of channels. The pixels of a strip's row are
tensors of their own, `[G, BLOCK_C]`: a lane loads each once and reaches its neighbours by naming another of its
registers. Strips are counted over the whole batch, so that narrow images leave no lane idle. 64-bit arithmetic finds
the strips once; from there on only the offset of a row, which is the same for all lanes, needs it.

Volumes `(batch, D, H, W, C)` are batch * D images: a row of the result takes rows of K of them, which the programs of
neighbouring planes have in the cache as well. All arithmetic is fp32.
"""

import triton
import triton.language as tl

# Their values would only mean more variants to compile; vectors along channels need C's divisibility alone.
SIZES = ["images", "D", "H", "W", "rows"]


@triton.jit
def strips(images, H, W, C, rows, COLUMNS: tl.constexpr, G: tl.constexpr, BLOCK_C: tl.constexpr):
    """(channels, column of each strip's first pixel, its offset in row 0, elements of a row, first row, end of rows).

    The elements of a row are 64 bit, and so is each row times them.
    """
    channel_blocks = tl.cdiv(C, BLOCK_C)
    c = (tl.program_id(0) % channel_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    strip = (tl.program_id(0) // channel_blocks) * G + tl.arange(0, G)[:, None]
    per_row = tl.cdiv(W, COLUMNS)
    image = strip // per_row
    # A strip past the last image lies outside of any, and so loads and stores nothing.
    x = tl.where(image < images, (strip % per_row) * COLUMNS, 2**30)
    y = tl.program_id(1) * rows
    return c, x, (image.to(tl.int64) * H * W + x) * C + c, W.to(tl.int64) * C, y, tl.minimum(y + rows, H)


@triton.jit
def plane_of_strips(D, W, C, COLUMNS: tl.constexpr, G: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of each strip, in its volume of D planes."""
    strip = (tl.program_id(0) // tl.cdiv(C, BLOCK_C)) * G + tl.arange(0, G)[:, None]
    return (strip // tl.cdiv(W, COLUMNS)) % D


@triton.jit
def load_row(pointers, wanted, c, x, W, C, FIRST: tl.constexpr, N: tl.constexpr):
    """N pixels from the strips' pixel FIRST on, as they lie in memory; 0 outside the row or unless `wanted`."""
    row = ()
    for j in tl.static_range(N):
        inside = (x + FIRST + j >= 0) & (x + FIRST + j < W) & (c < C) & wanted
        row += (tl.load(pointers + (FIRST + j) * C, mask=inside, other=0.0),)
    return row


@triton.jit
def load_rows(
    pointers, wanted, z, D, plane, c, x, W, C, FIRST: tl.constexpr, N: tl.constexpr, PLANES: tl.constexpr
):  # fmt: skip
    """A row of each of PLANES planes, the strips' own in the middle; `plane` are the elements of one."""
    if PLANES == 1:
        return load_row(pointers, wanted, c, x, W, C, FIRST, N)
    else:
        rows = ()
        for p in tl.static_range(PLANES):
            at = z + (p - PLANES // 2)
            rows += load_row(pointers + (p - PLANES // 2) * plane, wanted & (at >= 0) & (at < D), c, x, W, C, FIRST, N)
        return rows


@triton.jit
def widen(row):
    wide = ()
    for j in tl.static_range(len(row)):
        wide += (row[j].to(tl.float32),)
    return wide


@triton.jit
def load_weights(weight_ptr, c, C, TAPS: tl.constexpr, MIRRORED: tl.constexpr):
    """`(C, TAPS)` as a tuple over the taps."""
    weights = ()
    for t in tl.static_range(TAPS):
        tap = weight_ptr + (TAPS - 1 - t if MIRRORED else t)
        weights += (tl.load(tap + c * TAPS, mask=c < C, other=0.0).to(tl.float32),)
    return weights


@triton.jit
def load_norm(mean_ptr, var_ptr, weight_ptr, bias_ptr, eps, c, C):
    """(mean, scale, shift) of channels whose norm is scale * u + shift."""
    mean = tl.load(mean_ptr + c, mask=c < C, other=0.0)
    scale = tl.load(weight_ptr + c, mask=c < C, other=0.0) / tl.sqrt(tl.load(var_ptr + c, mask=c < C, other=1.0) + eps)
    return mean, scale, tl.load(bias_ptr + c, mask=c < C, other=0.0) - mean * scale


@triton.jit
def rectified(row, scale, shift, exists, x, W, FIRST: tl.constexpr):
    """relu(scale * row + shift) of pixels from the strips' pixel FIRST on; 0 outside the row or unless it `exists`."""
    active = ()
    for j in tl.static_range(len(row)):
        value = tl.maximum(row[j] * scale + shift, 0.0, propagate_nan=tl.PropagateNan.ALL)
        active += (tl.where((x + FIRST + j >= 0) & (x + FIRST + j < W) & exists, value, 0.0),)
    return active


@triton.jit(do_not_specialize=SIZES)
def conv_kernel(
    u_ptr, weight_ptr, bias_ptr, mean_ptr, var_ptr, norm_weight_ptr, norm_bias_ptr, eps, grad_ptr, out_ptr,
    images, D, H, W, C, rows,
    TRANSPOSED: tl.constexpr, ACTIVATED: tl.constexpr, PLANES: tl.constexpr, K: tl.constexpr,
    COLUMNS: tl.constexpr, G: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`(images, H, W, C)`: conv(u), or if TRANSPOSED the transposed convolution, plus a bias if there is one.

    If ACTIVATED, silu of that; with `grad` the gradient of silu's argument in the place of silu. PLANES is K for
    volumes, of D images each, else 1. With a mean the convolution is of relu(norm(u)), of images alone.
    Each row of u is loaded once and added to the sums of the K rows of the output that it is part of.
    """
    N: tl.constexpr = COLUMNS + K - 1
    c, x, first, row, y0, y1 = strips(images, H, W, C, rows, COLUMNS, G, BLOCK_C)
    z = 0 if PLANES == 1 else plane_of_strips(D, W, C, COLUMNS, G, BLOCK_C)
    plane = row * H
    weights = load_weights(weight_ptr, c, C, PLANES * K * K, TRANSPOSED)
    start = tl.zeros([G, BLOCK_C], dtype=tl.float32)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    if mean_ptr is not None:
        _, scale, shift = load_norm(mean_ptr, var_ptr, norm_weight_ptr, norm_bias_ptr, eps, c, C)
    sums = ()
    for _ in tl.static_range((K - 1) * COLUMNS):
        sums += (start,)
    top, bottom = tl.maximum(y0 - K // 2, 0), tl.minimum(y1 + K // 2, H)
    waiting = load_rows(u_ptr + first + top * row, True, z, D, plane, c, x, W, C, -(K // 2), N, PLANES)
    # Rows above the image are passed over: they would add nothing and finish nothing.
    for y in range(top, y1 + K // 2):
        u = widen(waiting)
        if mean_ptr is not None:
            u = rectified(u, scale, shift, y < bottom, x, W, -(K // 2))
        # In registers while this row is computed.
        below = u_ptr + first + (y + 1) * row
        waiting = load_rows(below, y + 1 < bottom, z, D, plane, c, x, W, C, -(K // 2), N, PLANES)
        if grad_ptr is not None:
            grad_row = grad_ptr + first + (y - K // 2) * row
            grads = widen(load_row(grad_row, y - K // 2 >= y0, c, x, W, C, 0, COLUMNS))
        added = ()
        for i in tl.static_range(K):
            for j in tl.static_range(COLUMNS):
                total = sums[i * COLUMNS + j] if i < K - 1 else start
                for p in tl.static_range(PLANES):
                    for k in tl.static_range(K):
                        total += u[p * N + j + k] * weights[(p * K + K - 1 - i) * K + k]
                added += (total,)
        done = out_ptr + first + (y - K // 2) * row
        for j in tl.static_range(COLUMNS):
            out = added[j]
            if grad_ptr is not None:
                sigmoid = tl.sigmoid(out)
                out = grads[j] * sigmoid * (1.0 + out * (1.0 - sigmoid))
            elif ACTIVATED:
                out = out / (1.0 + tl.exp(-out))
            inside = (x + j < W) & (c < C) & (y - K // 2 >= y0)
            tl.store(done + j * C, out.to(out_ptr.dtype.element_ty), mask=inside)
        sums = added[COLUMNS:]
