"""Triton kernels: the gradients of the depthwise convolution, in programs as those of `conv`."""

import triton
import triton.language as tl

from nnunetv2_dsvm.ops.triton.kernels.conv import (
    SIZES,
    load_norm,
    load_row,
    load_weights,
    plane_of_strips,
    rectified,
    strips,
    widen,
)


@triton.jit
def _store_sums(
    gweight_ptr, gbias_ptr, gweight, gbias, c, C, p,
    PLANES: tl.constexpr, K: tl.constexpr, MIRRORED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """This program's, `(programs, C, PLANES, K²)` and `(programs, C)`; it has the taps of plane p."""
    program = (tl.program_id(0) // tl.cdiv(C, BLOCK_C)) * tl.num_programs(1) + tl.program_id(1)
    column = program.to(tl.int64) * C + c
    tl.store(gbias_ptr + column, tl.sum(gbias, axis=0, keep_dims=True), mask=(c < C) & (p == 0))
    for t in tl.static_range(K * K):
        tap = gweight_ptr + (K * K - 1 - t if MIRRORED else t)
        tl.store(tap + (column * PLANES + p) * (K * K), tl.sum(gweight[t], axis=0, keep_dims=True), mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def conv_silu_backward_kernel(
    grad_ptr, u_ptr, weight_ptr, bias_ptr, gv_ptr, gweight_ptr, gbias_ptr, images, H, W, C, rows,
    K: tl.constexpr, COLUMNS: tl.constexpr, G: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """From `grad`, of silu(v) for v = conv(u) + bias, that of v; gradients of weight and bias per program.

    Without `gv` the first is in place. The latter are `(programs, C, K²)` and `(programs, C)`, for a deterministic sum
    afterwards.
    """
    N: tl.constexpr = COLUMNS + K - 1
    c, x, first, row, y0, y1 = strips(images, H, W, C, rows, COLUMNS, G, BLOCK_C)
    weights = load_weights(weight_ptr, c, C, K * K, False)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    else:
        bias = tl.zeros([G, BLOCK_C], dtype=tl.float32)
    gbias = tl.zeros([G, BLOCK_C], dtype=tl.float32)
    gweight = ()
    for _ in tl.static_range(K * K):
        gweight += (gbias,)
    u = ()  # K - 1 rows, and in the loop K
    for i in tl.static_range(K - 1):
        y = y0 + i - K // 2
        u += widen(load_row(u_ptr + first + y * row, (y >= 0) & (y < H), c, x, W, C, -(K // 2), N))
    below = y0 + K // 2
    waiting_u = load_row(u_ptr + first + below * row, below < H, c, x, W, C, -(K // 2), N)
    waiting_grad = load_row(grad_ptr + first + y0 * row, True, c, x, W, C, 0, COLUMNS)
    for y in range(y0, y1):
        u += widen(waiting_u)
        grad = widen(waiting_grad)
        # In registers while this row is computed.
        more = y + 1 < y1
        below = y + 1 + K // 2
        waiting_u = load_row(u_ptr + first + below * row, more & (below < H), c, x, W, C, -(K // 2), N)
        waiting_grad = load_row(grad_ptr + first + (y + 1) * row, more, c, x, W, C, 0, COLUMNS)
        done = (grad_ptr if gv_ptr is None else gv_ptr) + first + y * row
        for j in tl.static_range(COLUMNS):
            v = bias
            for t in tl.static_range(K * K):
                v += u[t // K * N + j + t % K] * weights[t]
            sigmoid = tl.sigmoid(v)
            g = grad[j] * sigmoid * (1.0 + v * (1.0 - sigmoid))
            tl.store(done + j * C, g.to(grad_ptr.dtype.element_ty), mask=(x + j < W) & (c < C))
            gbias += g
            added = ()
            for t in tl.static_range(K * K):
                added += (gweight[t] + u[t // K * N + j + t % K] * g,)
            gweight = added
        u = u[N:]
    _store_sums(gweight_ptr, gbias_ptr, gweight, gbias, c, C, 0, 1, K, False, BLOCK_C)


@triton.jit(do_not_specialize=SIZES)
def conv_backward_kernel(
    grad_ptr, u_ptr, weight_ptr, mean_ptr, var_ptr, norm_weight_ptr, norm_bias_ptr, eps, gu_ptr, gweight_ptr, gbias_ptr,
    gscale_ptr, gshift_ptr, images, H, W, C, rows,
    K: tl.constexpr, COLUMNS: tl.constexpr, G: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """From `grad`, of conv(u) + bias, the gradient of u; gradients of weight and bias per program.

    The latter are `(programs, C, K²)` and `(programs, C)`, for a deterministic sum afterwards. A row of `grad` is read
    once for both: it is added to the K rows of u's gradient around it, and multiplied by the K rows of u.

    With a mean the convolution is of relu(v) for v = norm(u). Then `gu` is the gradient of v; its product with
    u - mean, and itself, are summed per program too, `(programs, C)`.
    """
    N: tl.constexpr = COLUMNS + K - 1
    c, x, first, row, y0, y1 = strips(images, H, W, C, rows, COLUMNS, G, BLOCK_C)
    weights = load_weights(weight_ptr, c, C, K * K, True)
    gbias = tl.zeros([G, BLOCK_C], dtype=tl.float32)
    if mean_ptr is not None:
        mean, scale, shift = load_norm(mean_ptr, var_ptr, norm_weight_ptr, norm_bias_ptr, eps, c, C)
        gshift, gscale = gbias, gbias
    gweight = ()  # mirrored as the weights are
    for _ in tl.static_range(K * K):
        gweight += (gbias,)
    sums = ()
    for _ in tl.static_range((K - 1) * COLUMNS):
        sums += (gbias,)
    top, bottom = tl.maximum(y0 - K // 2, 0), tl.minimum(y1 + K // 2, H)
    u = ()  # K - 1 rows, and in the loop K; of this program's alone, so that each pixel of u is multiplied once
    loaded = ()  # the same without the activation
    for i in tl.static_range(K - 1):
        y = top + i - K // 2
        of_u = load_row(u_ptr + first + y * row, (y >= y0) & (y < y1), c, x, W, C, 0, COLUMNS)
        if mean_ptr is not None:
            loaded += of_u
            u += rectified(widen(of_u), scale, shift, (y >= y0) & (y < y1), x, W, 0)
        else:
            u += widen(of_u)
    below = top + K // 2
    waiting_u = load_row(u_ptr + first + below * row, (below >= y0) & (below < y1), c, x, W, C, 0, COLUMNS)
    waiting_grad = load_row(grad_ptr + first + top * row, True, c, x, W, C, -(K // 2), N)
    for y in range(top, y1 + K // 2):
        if mean_ptr is not None:
            loaded += waiting_u
            u += rectified(widen(waiting_u), scale, shift, (below >= y0) & (below < y1), x, W, 0)
        else:
            u += widen(waiting_u)
        grad = widen(waiting_grad)
        # In registers while this row is computed.
        below = y + 1 + K // 2
        waiting_u = load_row(u_ptr + first + below * row, (below >= y0) & (below < y1), c, x, W, C, 0, COLUMNS)
        waiting_grad = load_row(grad_ptr + first + (y + 1) * row, y + 1 < bottom, c, x, W, C, -(K // 2), N)
        added = ()
        for i in tl.static_range(K):
            for j in tl.static_range(COLUMNS):
                total = sums[i * COLUMNS + j] if i < K - 1 else tl.zeros([G, BLOCK_C], dtype=tl.float32)
                for k in tl.static_range(K):
                    total += grad[j + k] * weights[(K - 1 - i) * K + k]
                added += (total,)
        multiplied = ()
        for t in tl.static_range(K * K):
            total = gweight[t]
            for j in tl.static_range(COLUMNS):
                total += grad[j + t % K] * u[(K - 1 - t // K) * COLUMNS + j]
            multiplied += (total,)
        gweight = multiplied
        own = (y >= y0) & (y < y1)
        for j in tl.static_range(COLUMNS):
            gbias += tl.where(own, grad[j + K // 2], 0.0)
        done = gu_ptr + first + (y - K // 2) * row
        for j in tl.static_range(COLUMNS):
            g = added[j]
            if mean_ptr is not None:
                g = tl.where(u[j] <= 0.0, 0.0, g)
                gshift += g
                gscale += g * (loaded[j].to(tl.float32) - mean)
            inside = (x + j < W) & (c < C) & (y - K // 2 >= y0)
            tl.store(done + j * C, g.to(gu_ptr.dtype.element_ty), mask=inside)
        sums = added[COLUMNS:]
        u = u[COLUMNS:]
        if mean_ptr is not None:
            loaded = loaded[COLUMNS:]
    _store_sums(gweight_ptr, gbias_ptr, gweight, gbias, c, C, 0, 1, K, True, BLOCK_C)
    if mean_ptr is not None:
        _store_sums(gscale_ptr, gshift_ptr, (gscale,), gshift, c, C, 0, 1, 1, False, BLOCK_C)


@triton.jit(do_not_specialize=SIZES)
def volume_weight_kernel(
    grad_ptr, u_ptr, gweight_ptr, gbias_ptr, images, D, H, W, C, rows,
    K: tl.constexpr, COLUMNS: tl.constexpr, G: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias per program from `grad`, that of conv(u) + bias, of volumes of D planes.

    `(programs, C, K³)` and `(programs, C)`, for a deterministic sum afterwards. A program has the K² taps of one of
    the K planes around it: sums and rows of all of them would not fit into registers.
    """
    N: tl.constexpr = COLUMNS + K - 1
    c, x, first, row, y0, y1 = strips(images, H, W, C, rows, COLUMNS, G, BLOCK_C)
    p = tl.program_id(2)
    at = plane_of_strips(D, W, C, COLUMNS, G, BLOCK_C) + p - K // 2
    exists = (at >= 0) & (at < D)
    u_plane = u_ptr + first + (p - K // 2) * (row * H)
    gbias = tl.zeros([G, BLOCK_C], dtype=tl.float32)
    gweight = ()
    for _ in tl.static_range(K * K):
        gweight += (gbias,)
    u = ()  # K - 1 rows, and in the loop K
    for i in tl.static_range(K - 1):
        y = y0 + i - K // 2
        u += widen(load_row(u_plane + y * row, exists & (y >= 0) & (y < H), c, x, W, C, -(K // 2), N))
    below = y0 + K // 2
    waiting_u = load_row(u_plane + below * row, exists & (below < H), c, x, W, C, -(K // 2), N)
    waiting_grad = load_row(grad_ptr + first + y0 * row, True, c, x, W, C, 0, COLUMNS)
    for y in range(y0, y1):
        u += widen(waiting_u)
        grad = widen(waiting_grad)
        # In registers while this row is computed.
        more = y + 1 < y1
        below = y + 1 + K // 2
        waiting_u = load_row(u_plane + below * row, exists & more & (below < H), c, x, W, C, -(K // 2), N)
        waiting_grad = load_row(grad_ptr + first + (y + 1) * row, more, c, x, W, C, 0, COLUMNS)
        for j in tl.static_range(COLUMNS):
            gbias += grad[j]
            added = ()
            for t in tl.static_range(K * K):
                added += (gweight[t] + u[t // K * N + j + t % K] * grad[j],)
            gweight = added
        u = u[N:]
    _store_sums(gweight_ptr, gbias_ptr, gweight, gbias, c, C, p, K, K, False, BLOCK_C)
