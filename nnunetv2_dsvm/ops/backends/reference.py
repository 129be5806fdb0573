"""The definition of the four-direction selective scan: a plain loop over tokens, the oracle of every test."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.scan_order import scan_orders


def supports(device: torch.device, dtype: torch.dtype, d_state: int) -> tuple[bool, str]:
    """Runs everywhere, slowly."""
    return True, "a plain loop over tokens, for checking the other backends"


def forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, height: int, width: int
) -> Tensor:
    """SS2D's scan, one token after the other (arXiv 2312.00752, eq. 2; arXiv 2401.10166 for the four directions).

    For each direction k, with tokens t in that direction's order::

        delta_t = softplus(dt_t + dt_bias)
        h_t     = exp(delta_t * A) * h_{t-1} + delta_t * x_t * B_t
        y_t     = <C_t, h_t> + D * x_t

    and the sum of the four directions is returned in raster order. Shapes as in `nnunetv2_dsvm.ops.ss2d_scan`.
    Arithmetic is at least fp32; fp64 inputs are computed in fp64. Differentiable by autograd.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    orders = scan_orders(height, width, x.device)
    batch, length, channels = x.shape
    y = torch.zeros(batch, length, channels, dtype=dtype, device=x.device)
    for k, order in enumerate(orders):
        u = x[:, order].to(dtype)
        delta = F.softplus(dt[:, order, k].to(dtype) + dt_bias[k].to(dtype))
        b, c = B[:, order, k].to(dtype), C[:, order, k].to(dtype)
        state = torch.zeros(batch, channels, A.shape[-1], dtype=dtype, device=x.device)
        outputs = []
        for t in range(length):
            decay = torch.exp(delta[:, t, :, None] * A[k].to(dtype))
            state = decay * state + (delta[:, t] * u[:, t])[:, :, None] * b[:, t, None, :]
            outputs.append((state * c[:, t, None, :]).sum(-1) + D[k].to(dtype) * u[:, t])
        y = y.index_add(1, order, torch.stack(outputs, dim=1))
    return y.to(x.dtype)
