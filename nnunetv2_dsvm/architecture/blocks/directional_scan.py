"""The selective scan of a grid with the parameters that make it input-dependent: what every Mamba block is built on."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.ops import ScanOrder, selective_scan
from nnunetv2_dsvm.ops.fused_core import scan_core, uses_core
from nnunetv2_dsvm.ops.projections import scan_weights
from nnunetv2_dsvm.ops.scan_order import axis_orders

# Range and floor of the step sizes that the bias of dt starts from (arXiv 2312.00752, section 3.6).
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class DirectionalScan(nn.Module):
    """A selective scan in K directions and its parameters, `(B, *sizes, d_inner)` to the same shape; a base of blocks.

    A subclass adds its layers and then calls `reset_scan_parameters`.

    Args:
        d_inner: channels.
        dt_rank: columns of the step sizes' first projection.
        d_state: states per channel, N.
        axes: of the grid, n.
        orders: the K walks through it; None: two per axis (`nnunetv2_dsvm.ops.scan_order.axis_orders`).
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
    """

    def __init__(
        self,
        d_inner: int,
        dt_rank: int,
        d_state: int,
        *,
        axes: int = 2,
        orders: Sequence[ScanOrder] | None = None,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        self.d_inner, self.dt_rank, self.d_state, self.axes = d_inner, dt_rank, d_state, axes
        self.orders = None if orders is None or tuple(orders) == axis_orders(axes) else tuple(orders)
        self.directions = len(self.orders or axis_orders(axes))
        self.scan_backend = scan_backend
        self.x_proj = nn.Parameter(torch.empty(self.directions, dt_rank + 2 * d_state, d_inner))
        self.dt_proj = nn.Parameter(torch.empty(self.directions, d_inner, dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(self.directions, d_inner))
        self.A_log = nn.Parameter(torch.empty(self.directions, d_inner, d_state))
        self.D = nn.Parameter(torch.empty(self.directions, d_inner))

    @torch.no_grad()
    def reset_scan_parameters(self) -> None:
        """Initialises the parameters above (method of Mamba, arXiv 2312.00752; values of the official VM-UNet)."""
        for projection in self.x_proj:
            nn.init.kaiming_uniform_(projection, a=math.sqrt(5))  # as nn.Linear, which the official code stacks
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj, -bound, bound)
        step = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))).clamp_(DT_FLOOR)
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
        self.A_log.copy_(torch.log(torch.arange(1, self.d_state + 1, dtype=torch.float32)).expand_as(self.A_log))
        self.D.fill_(1.0)

    def scan(self, x: Tensor) -> Tensor:
        """Input-dependent parameters of all directions, and the scan; `(B, *sizes, d_inner)` to that shape."""
        shape, sizes = x.shape, x.shape[1:-1]
        x = x.flatten(1, -2)
        if self._fused(x):
            weight, A = scan_weights(self.x_proj, self.dt_proj, self.A_log)
            y = scan_core(
                x, weight, A, self.D, self.dt_bias,
                sizes=sizes, orders=self.orders, backend=self.scan_backend,
            )  # fmt: skip
            return y.view(shape)
        parameters = F.linear(x, self.x_proj.flatten(0, 1)).unflatten(-1, (self.directions, -1))
        low_rank, B, C = parameters.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        by_direction = torch.bmm(low_rank.permute(2, 0, 1, 3).flatten(1, 2), self.dt_proj.mT)
        dt = by_direction.unflatten(1, x.shape[:2]).permute(1, 2, 0, 3)
        if x.dtype == torch.float16:  # y can exceed the range of fp16; the norm after it brings it back
            x, dt, B, C = (t.float() for t in (x, dt, B, C))
        y = selective_scan(
            x, dt, self._A(), B, C, self.D, self.dt_bias, sizes=sizes, orders=self.orders, backend=self.scan_backend
        )
        return y.view(shape)

    def _fused(self, x: Tensor) -> bool:
        fp32_parameters = self.A_log.dtype == torch.float32  # as the fused operators expect, whatever autocast does
        return fp32_parameters and uses_core(self.scan_backend, x.device, x.dtype, self.d_state, self.axes, self.orders)

    def _A(self) -> Tensor:
        # A, D and the bias are used in fp32 at least, also where they are stored in 16 bit and under autocast: exp and
        # softplus amplify their rounding.
        return -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
