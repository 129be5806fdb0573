"""SS2D of images and volumes, with the norm before it, as one differentiable operator; for fused operators only.

Backward keeps the input, the merged scan and the scan's sparse states, and computes everything else again: products,
norms and the depthwise convolution are a small part of a block's time, and most of its memory if kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.backend import FusedOperators
from nnunetv2_dsvm.ops.device import autocast_dtype, on_its_device
from nnunetv2_dsvm.ops.dispatch import BACKENDS, fused_operators, saves_for_backward
from nnunetv2_dsvm.ops.fused_core import core_backend, core_shape
from nnunetv2_dsvm.ops.projections import output_dtype
from nnunetv2_dsvm.ops.scan_order import ScanOrder, as_numbers
from nnunetv2_dsvm.ops.side_branch import fork, later, product, product_later, wait


class NormWeights(NamedTuple):
    """The parameters of a LayerNorm."""

    weight: Tensor
    bias: Tensor
    eps: float


def ss2d_block(
    x: Tensor, norm: NormWeights, in_weight: Tensor, conv_weight: Tensor, conv_bias: Tensor, projection: Tensor,
    A: Tensor, D: Tensor, dt_bias: Tensor, out_norm: NormWeights, out_weight: Tensor,
    backend: str = "auto", orders: Sequence[ScanOrder] | None = None,
) -> Tensor:  # fmt: skip
    """out_proj(LayerNorm(scan(SiLU(conv(u)))) * SiLU(z)) for u, z = in_proj(LayerNorm(x)) (arXiv 2401.10166).

    Args:
        x: `(B, H, W, dim)` or `(B, D, H, W, dim)`.
        norm: over dim.
        in_weight: `(2 d_inner, dim)`: the rows of u, then those of z.
        conv_weight, conv_bias: of the depthwise convolution, `(d_inner, 1, k, …)` with k odd, and `(d_inner,)`.
        projection, A, D, dt_bias: as `weight` and the rest in `scan_core`.
        out_norm: over d_inner.
        out_weight: `(dim, d_inner)`.
        backend: as in `selective_scan`, one that `uses_core` says yes to.
        orders: the walks through the grid, as in `selective_scan`.

    Returns:
        The shape of x, in autocast's dtype, without autocast in x's.
    """
    dtype = autocast_dtype(x)
    tensors = (
        x, norm.weight, norm.bias, in_weight, conv_weight, conv_bias, projection, A, D, dt_bias,
        out_norm.weight, out_norm.bias, out_weight,
    )  # fmt: skip
    save = saves_for_backward(*tensors)
    numbers = as_numbers(orders, x.shape[1:-1])
    return _block(*tensors, norm.eps, out_norm.eps, dtype, numbers, backend, save)[0]


def _in_projection(
    fused: FusedOperators, x: Tensor, norm_weight: Tensor, norm_bias: Tensor, in_weight: Tensor, norm_eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(LayerNorm(x), u, z), each `(B, *sizes, channels)`, contiguous."""
    normalised = fused.layer_norm_forward(x, norm_weight, norm_bias, None, norm_eps, dtype)
    # Two products instead of two halves of one: the convolution would copy its half.
    u, z = (F.linear(normalised, rows) for rows in in_weight.to(dtype).chunk(2))
    return normalised, u, z


@torch.library.custom_op("nnunetv2_dsvm::ss2d_block", mutates_args=())
@on_its_device
def _block(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, in_weight: Tensor, conv_weight: Tensor, conv_bias: Tensor,
    projection: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, out_norm_weight: Tensor, out_norm_bias: Tensor,
    out_weight: Tensor, norm_eps: float, out_norm_eps: float, dtype: torch.dtype, orders: Sequence[int],
    backend: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, and of the scan the merged sum and the sparse states (both empty unless `save`)."""
    shape = core_shape(x, A, x.shape[1:-1], orders)
    fused = fused_operators(core_backend(backend, x, shape))
    u, z = _in_projection(fused, x, norm_weight, norm_bias, in_weight, norm_eps, dtype)[1:]
    active = fused.convolution_forward(u, conv_weight, conv_bias, True).flatten(1, -2)
    del u
    wait(x.device)  # for the scan's weights
    gated, y, saved = fused.core_norm_forward(
        active, projection, A, D, dt_bias, out_norm_weight, out_norm_bias, z.flatten(1, -2), shape, save, out_norm_eps,
        dtype,
    )  # fmt: skip
    del active
    out = F.linear(gated.view(z.shape), out_weight.to(dtype))
    if y is None or saved is None:
        return out, x.new_empty(0), x.new_empty(0)
    return out, y.view(z.shape), saved


@torch.library.custom_op("nnunetv2_dsvm::ss2d_block_backward", mutates_args=())
@on_its_device
def _block_backward(
    grad: Tensor, y: Tensor, saved: Tensor,
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, in_weight: Tensor, conv_weight: Tensor, conv_bias: Tensor,
    projection: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, out_norm_weight: Tensor, out_norm_bias: Tensor,
    out_weight: Tensor, norm_eps: float, out_norm_eps: float, orders: Sequence[int], backend: str,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:  # fmt: skip
    """The gradients of the thirteen tensors from x on."""
    shape = core_shape(x, A, x.shape[1:-1], orders)
    fused = fused_operators(core_backend(backend, x, shape))
    dtype = grad.dtype
    normalised, u, z = _in_projection(fused, x, norm_weight, norm_bias, in_weight, norm_eps, dtype)
    rows = grad.reshape(-1, grad.shape[-1])
    grad_out_weight = torch.empty_like(out_weight)

    def multiply_by_gated(z: Tensor = z) -> None:
        gated = fused.layer_norm_forward(y, out_norm_weight, out_norm_bias, z, out_norm_eps, dtype)
        product(rows.t(), gated.flatten(0, -2), grad_out_weight)

    later(multiply_by_gated, grad_out_weight, rows.numel() + z.numel())
    del multiply_by_gated
    grad_gated = torch.mm(rows, out_weight.to(dtype)).view(z.shape)
    grad_y, grad_out_norm_weight, grad_out_norm_bias, grad_z = fused.layer_norm_backward(
        grad_gated, y, out_norm_weight, out_norm_bias, z, out_norm_eps
    )
    del grad_gated, z

    active = fused.convolution_forward(u, conv_weight, conv_bias, True).flatten(1, -2)
    grad_active, grad_projection, grad_A, grad_D, grad_dt_bias = fused.core_backward(
        grad_y.flatten(1, -2), saved, active, projection, A, D, dt_bias, shape
    )
    del grad_y, active
    grad_u, grad_conv_weight, grad_conv_bias = fused.convolution_backward(
        grad_active.view(u.shape), u, conv_weight, conv_bias, True, True
    )
    del grad_active, u
    grad_u, grad_z, columns = (t.flatten(0, -2) for t in (grad_u, grad_z, normalised))
    grad_in_weight = torch.empty_like(in_weight)
    for g, of_g in zip((grad_u, grad_z), grad_in_weight.chunk(2), strict=True):
        product_later(g.t(), columns, of_g)
    to_u, to_z = in_weight.to(dtype).chunk(2)
    grad_normalised = torch.mm(grad_u, to_u).addmm_(grad_z, to_z).view(x.shape)
    grad_x, grad_norm_weight, grad_norm_bias, _ = fused.layer_norm_backward(
        grad_normalised, x, norm_weight, norm_bias, None, norm_eps
    )
    fork(x.device)
    return (
        grad_x, grad_norm_weight, grad_norm_bias, grad_in_weight, grad_conv_weight, grad_conv_bias,
        grad_projection, grad_A, grad_D, grad_dt_bias, grad_out_norm_weight, grad_out_norm_bias, grad_out_weight,
    )  # fmt: skip


@_block.register_fake
def _(x, norm_weight, norm_bias, in_weight, conv_weight, conv_bias, projection, A, D, dt_bias, out_norm_weight,
      out_norm_bias, out_weight, norm_eps, out_norm_eps, dtype, orders, backend, save):  # fmt: skip
    out = x.new_empty(*x.shape[:-1], out_weight.shape[0], dtype=dtype)
    if not save:
        return out, x.new_empty(0), x.new_empty(0)
    y = x.new_empty(*x.shape[:-1], out_weight.shape[1], dtype=output_dtype(dtype))
    shape = core_shape(x, A, x.shape[1:-1], orders)
    return out, y, BACKENDS[core_backend(backend, x, shape)].saved_states(shape, dtype, x)


@_block_backward.register_fake
def _(grad, y, saved, *inputs):
    return tuple(t.new_empty(t.shape) for t in inputs[:13])


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.norm_eps, ctx.out_norm_eps, _, ctx.orders, ctx.backend, _ = inputs
    ctx.save_for_backward(*output[1:], *tensors)
    ctx.set_materialize_grads(False)  # the states get none: no zeros as large as they are
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, grad: Tensor, *_):
    grads = _block_backward(grad, *ctx.saved_tensors, ctx.norm_eps, ctx.out_norm_eps, ctx.orders, ctx.backend)
    return *grads, None, None, None, None, None, None


_block.register_autograd(_backward, setup_context=_setup_context)
