"""The definition of the selective scan: a plain loop over tokens, the oracle of every test."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.backend import Backend, Orders
from nnunetv2_dsvm.ops.scan_inputs import ScanInputs
from nnunetv2_dsvm.ops.scan_order import grid_orders


def reference_scan(inputs: ScanInputs) -> Tensor:
    """The scan, one token after the other (arXiv 2312.00752, eq. 2; arXiv 2401.10166 for the directions of an image).

    For each direction k, with tokens t in that direction's order::

        delta_t = softplus(dt_t + dt_bias)
        h_t     = exp(delta_t * A) * h_{t-1} + delta_t * x_t * B_t
        y_t     = <C_t, h_t> + D * x_t

    and the sum of the directions is returned in raster order. Arithmetic is at least fp32; fp64 inputs are computed in
    fp64. Differentiable by autograd.
    """
    x, dt, A, B, C, D, dt_bias, sizes, orders = inputs
    dtype = torch.promote_types(x.dtype, torch.float32)
    batch, length, channels = x.shape
    y = torch.zeros(batch, length, channels, dtype=dtype, device=x.device)
    for k, order in enumerate(grid_orders(sizes, x.device, orders)):
        u = x[:, order].to(dtype)
        delta = F.softplus(dt[:, order, k].to(dtype) + dt_bias[k].to(dtype))
        b, c = B[:, order, k].to(dtype), C[:, order, k].to(dtype)
        state = torch.zeros(batch, channels, A.shape[-1], dtype=dtype, device=x.device)
        outputs = []
        for t in range(len(order)):
            decay = torch.exp(delta[:, t, :, None] * A[k].to(dtype))
            state = decay * state + (delta[:, t] * u[:, t])[:, :, None] * b[:, t, None, :]
            outputs.append((state * c[:, t, None, :]).sum(-1) + D[k].to(dtype) * u[:, t])
        y = y.index_add(1, order, torch.stack(outputs, dim=1))
    return y.to(x.dtype)


class Reference(Backend):
    """`reference_scan`, for checking the other backends: slow."""

    definition = plain_torch = True

    def supports(
        self, device: torch.device, dtype: torch.dtype, d_state: int, axes: int, orders: Orders = None
    ) -> tuple[bool, str]:
        """Runs everywhere."""
        return True, "a plain loop over tokens, for checking the other backends"

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, None]:
        """The loop; saves nothing."""
        return reference_scan(inputs), None
