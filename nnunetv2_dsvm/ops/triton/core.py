"""The fused core: one matrix product gives dt, B and C of all directions, and the kernels read them where it left them.

Backward keeps the input and the scan's sparse states, and computes the product again.
"""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backend import CoreGradients
from nnunetv2_dsvm.ops.projections import output_dtype, split
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.side_branch import product_later
from nnunetv2_dsvm.ops.triton.elementwise import delta_dtype, softplus
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings
from nnunetv2_dsvm.ops.triton.layer_norm import merge_norm_forward, norm_forward
from nnunetv2_dsvm.ops.triton.scan import (
    backward_takes_dt,
    forward_takes_dt,
    merge_with_skip,
    scan_backward,
    scan_forward,
)


def _parameters(
    shape: ScanShape, x: Tensor, weight: Tensor, dt_bias: Tensor, takes_dt: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """delta, B and C of all directions: views into one matrix product, softplus in place; dt if the scan takes it."""
    product = torch.mm(x.view(-1, shape.d_inner), weight.t()).view(shape.batch, shape.length, -1)
    dt, B, C = split(product, shape.d_inner, shape.d_state)
    if takes_dt:
        return dt, B, C
    delta = dt if x.dtype == torch.float32 else dt.view(delta_dtype(x.dtype))
    return softplus(dt, dt_bias, delta), B, C


def _scan(
    x: Tensor, weight: Tensor, A: Tensor, dt_bias: Tensor, shape: ScanShape, save: bool, settings: LaunchSettings
) -> tuple[Tensor, Tensor | None]:
    """Of a contiguous x: y of each direction without the skip, `(batch, L, K, channels)`, and the saved states."""
    plan = LaunchPlan(shape, x.device, settings)
    A, dt_bias = A.float().contiguous(), dt_bias.float().contiguous()  # of a network in 16 bit they are not fp32
    raw = forward_takes_dt(plan, x.dtype, save)
    delta, B, C = _parameters(shape, x, weight.to(x.dtype), dt_bias, raw)
    return scan_forward(plan, x, delta, A, B, C, dt_bias, save, output_dtype(x.dtype), raw)


def core_forward(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, shape: ScanShape, save: bool,
    settings: LaunchSettings,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """As `FusedOperators.core_forward`."""
    x = x.contiguous()
    parts, saved = _scan(x, weight, A, dt_bias, shape, save, settings)
    return merge_with_skip(shape, parts, x, D, parts.dtype), saved


def core_norm_forward(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, norm_weight: Tensor, norm_bias: Tensor,
    gate: Tensor, shape: ScanShape, save: bool, eps: float, dtype: torch.dtype, settings: LaunchSettings,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """As `FusedOperators.core_norm_forward`."""
    x = x.contiguous()
    parts, saved = _scan(x, weight, A, dt_bias, shape, save, settings)
    if shape.step == 1:
        out, y = merge_norm_forward(parts, x, D, norm_weight, norm_bias, gate, eps, dtype, save)
        return out, y, saved
    y = merge_with_skip(shape, parts, x, D, parts.dtype)
    return norm_forward(y, norm_weight, norm_bias, gate, eps, dtype), y if save else None, saved


def core_backward(
    grad: Tensor, saved: Tensor, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    shape: ScanShape, settings: LaunchSettings,
) -> CoreGradients:  # fmt: skip
    """As `FusedOperators.core_backward`."""
    plan = LaunchPlan(shape, x.device, settings)
    grad, x, A, dt_bias = grad.contiguous(), x.contiguous(), A.float().contiguous(), dt_bias.float().contiguous()
    matrix = weight.to(x.dtype)
    raw = backward_takes_dt(saved, shape)
    delta, B, C = _parameters(shape, x, matrix, dt_bias, raw)
    grad_product = x.new_empty(*x.shape[:2], weight.shape[0])
    grad_dt, grad_B, grad_C = split(grad_product, shape.d_inner, shape.d_state)
    grad_x, grad_A, grad_D, grad_bias = scan_backward(
        plan, grad, x, delta, A, B, C, D, dt_bias, saved, grad_dt, grad_B, grad_C, raw
    )
    columns = grad_product.flatten(0, 1)
    grad_x = torch.addmm(grad_x.flatten(0, 1), columns, matrix).view_as(x)
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    product_later(columns.t(), x.flatten(0, 1), grad_weight)
    return grad_x, grad_weight, grad_A, grad_D, grad_bias
