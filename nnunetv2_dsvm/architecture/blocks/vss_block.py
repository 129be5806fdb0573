"""The Visual State Space block of VMamba (arXiv 2401.10166) as VM-UNet (arXiv 2402.02491) uses it. Channels last."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm
from nnunetv2_dsvm.ops import ss2d_scan
from nnunetv2_dsvm.ops.fused_block import NormWeights, ss2d_block
from nnunetv2_dsvm.ops.fused_core import ss2d_core, uses_core
from nnunetv2_dsvm.ops.layer_norm import layer_norm
from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS

# Range and floor of the step sizes that the bias of dt starts from (arXiv 2312.00752, section 3.6).
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class SS2D(nn.Module):
    """Gated four-direction selective scan, `(B, H, W, dim)` to the same shape.

    Args:
        dim: channels; the scan runs on d_inner = 2 dim.
        d_state: states per channel, N.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
    """

    def __init__(self, dim: int, d_state: int = 16, scan_backend: str = "auto") -> None:
        super().__init__()
        d_inner, dt_rank = 2 * dim, math.ceil(dim / 16)
        self.d_inner, self.dt_rank, self.d_state = d_inner, dt_rank, d_state
        self.scan_backend = scan_backend

        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv = nn.Conv2d(d_inner, d_inner, kernel_size=3, padding=1, groups=d_inner)
        self.x_proj = nn.Parameter(torch.empty(NUM_DIRECTIONS, dt_rank + 2 * d_state, d_inner))
        self.dt_proj = nn.Parameter(torch.empty(NUM_DIRECTIONS, d_inner, dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(NUM_DIRECTIONS, d_inner))
        self.A_log = nn.Parameter(torch.empty(NUM_DIRECTIONS, d_inner, d_state))
        self.D = nn.Parameter(torch.empty(NUM_DIRECTIONS, d_inner))
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialises the scan's own parameters (method of Mamba, arXiv 2312.00752; values of the official VM-UNet)."""
        for projection in self.x_proj:
            nn.init.kaiming_uniform_(projection, a=math.sqrt(5))  # as nn.Linear, which the official code stacks
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj, -bound, bound)
        step = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))).clamp_(DT_FLOOR)
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
        self.A_log.copy_(torch.log(torch.arange(1, self.d_state + 1, dtype=torch.float32)).expand_as(self.A_log))
        self.D.fill_(1.0)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """SS2D(norm(x)); fused into one operator where the kernels for that can run."""
        if self._fused(x):
            assert self.conv.bias is not None
            return ss2d_block(
                x, _weights(norm), self.in_proj.weight, self.conv.weight, self.conv.bias, self._projection(),
                self._A(), self.D, self.dt_bias, _weights(self.out_norm), self.out_proj.weight,
                self.scan_backend,
            )  # fmt: skip
        x, z = self.in_proj(norm(x)).chunk(2, dim=-1)
        x = F.silu(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        y = self.scan(x)
        return self.out_proj(layer_norm(y, *_weights(self.out_norm), gate=z, dtype=z.dtype))

    def scan(self, x: Tensor) -> Tensor:
        """The core: input-dependent parameters of all directions, and the scan; `(B, H, W, d_inner)` to that shape."""
        batch, height, width, d_inner = x.shape
        x = x.reshape(batch, height * width, d_inner)
        A = self._A()
        if self._fused(x):
            y = ss2d_core(
                x, self._projection(), A, self.D, self.dt_bias, height=height, width=width, backend=self.scan_backend
            )
            return y.view(batch, height, width, d_inner)
        parameters = F.linear(x, self.x_proj.flatten(0, 1)).unflatten(-1, (NUM_DIRECTIONS, -1))
        low_rank, B, C = parameters.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        by_direction = torch.bmm(low_rank.permute(2, 0, 1, 3).flatten(1, 2), self.dt_proj.mT)
        dt = by_direction.view(NUM_DIRECTIONS, batch, height * width, d_inner).permute(1, 2, 0, 3)
        if x.dtype == torch.float16:  # y can exceed the range of fp16; the norm after it brings it back
            x, dt, B, C = (t.float() for t in (x, dt, B, C))
        y = ss2d_scan(x, dt, A, B, C, self.D, self.dt_bias, height=height, width=width, backend=self.scan_backend)
        return y.view(batch, height, width, d_inner)

    def _fused(self, x: Tensor) -> bool:
        fp32_parameters = self.A_log.dtype == torch.float32  # as the fused operators expect, whatever autocast does
        return fp32_parameters and uses_core(self.scan_backend, x.device, x.dtype, self.d_state)

    def _A(self) -> Tensor:
        # A, D and the bias are used in fp32 at least, also where they are stored in 16 bit and under autocast: exp and
        # softplus amplify their rounding.
        return -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))

    def _projection(self) -> Tensor:
        """The matrix that gives dt, B and C of all directions at once; dt's two factors are multiplied beforehand.

        The product has more operations than its factors one after the other, but is what tensor cores are good at; the
        factors' rank of 6 … 48 is not. Under autocast it is made in autocast's type, as a product with a factor would.
        """
        to_dt = torch.bmm(self.dt_proj, self.x_proj[:, : self.dt_rank])
        to_states = self.x_proj[:, self.dt_rank :].to(to_dt.dtype)
        return torch.cat([to_dt.flatten(0, 1), to_states.flatten(0, 1)])


def _weights(norm: nn.LayerNorm) -> NormWeights:
    return NormWeights(norm.weight, norm.bias, norm.eps)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops a residual branch per sample while training, and rescales the rest."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)


class VSSBlock(nn.Module):
    """`x + DropPath(SS2D(LayerNorm(x)))` on `(B, H, W, dim)`: no MLP."""

    def __init__(self, dim: int, d_state: int = 16, drop_path: float = 0.0, scan_backend: str = "auto") -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.ss2d = SS2D(dim, d_state, scan_backend)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.ss2d(x, self.norm))
