"""The Visual State Space block of VMamba (arXiv 2401.10166) as VM-UNet (arXiv 2402.02491) uses it. Channels last.

In three dimensions, which is ours, it scans in six directions and its convolution is 3×3×3.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import convolution, depthwise, has_hooks, is_plain
from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm
from nnunetv2_dsvm.ops import ScanOrder
from nnunetv2_dsvm.ops.fused.residual import scaled_sum
from nnunetv2_dsvm.ops.fused_block import NormWeights, ss2d_block
from nnunetv2_dsvm.ops.layer_norm import layer_norm
from nnunetv2_dsvm.ops.projections import scan_weights


class SS2D(DirectionalScan):
    """Gated selective scan in two directions an axis, `(B, *sizes, dim)` to the same shape.

    Args:
        dim: channels; the scan runs on d_inner = 2 dim.
        d_state: states per channel, N.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
        axes: of the grid, 2 or 3.
        orders: the walks through it; None: two along each axis, as VM-UNet's four.
    """

    product_weights = ("in_proj.weight", "x_proj", "dt_proj", "out_proj.weight")  # see `cuda_graphs.converted_weights`

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        scan_backend: str = "auto",
        axes: int = 2,
        orders: Sequence[ScanOrder] | None = None,
    ) -> None:
        d_inner = 2 * dim
        super().__init__(d_inner, math.ceil(dim / 16), d_state, axes=axes, orders=orders, scan_backend=scan_backend)
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv = convolution(axes)(d_inner, d_inner, kernel_size=3, padding=1, groups=d_inner)
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)
        self.reset_scan_parameters()

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """SS2D(norm(x)), or without a norm SS2D(x).

        With the norm it is one fused operator where the kernels for that can run and the layers are plain; without,
        `scan` is, and the norm behind it.
        """
        plain = is_plain(self.in_proj, self.conv, self.out_proj)
        if norm is not None and plain and not has_hooks(norm) and self._fused(x):
            assert self.conv.bias is not None
            projection, A = scan_weights(self.x_proj, self.dt_proj, self.A_log)
            return ss2d_block(
                x, _weights(norm), self.in_proj.weight, self.conv.weight, self.conv.bias, projection, A,
                self.D, self.dt_bias, _weights(self.out_norm), self.out_proj.weight, self.scan_backend, self.orders,
            )  # fmt: skip
        x, z = self.in_proj(x if norm is None else norm(x)).chunk(2, dim=-1)
        x = depthwise(self.conv, x, "silu")
        y = self.scan(x)
        return self.out_proj(layer_norm(y, *_weights(self.out_norm), gate=z, dtype=z.dtype))


def _weights(norm: nn.LayerNorm) -> NormWeights:
    return NormWeights(norm.weight, norm.bias, norm.eps)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops a residual branch per sample while training, and rescales the rest."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        factors = self.factors(x)
        return x if factors is None else x * factors

    def factors(self, x: Tensor) -> Tensor | None:
        """Of each sample, `(B, 1, …)`; None for ones."""
        if not self.training or self.probability == 0.0:
            return None
        keep = 1.0 - self.probability
        return x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep) / (keep or 1.0)


def added(x: Tensor, branch: Tensor, drop_path: nn.Module) -> Tensor:
    """x + drop_path(branch); with stochastic depth in one pass over memory on GPUs, unless something has to see it."""
    if type(drop_path) is not DropPath or has_hooks(drop_path):
        return x + drop_path(branch)
    factors = drop_path.factors(branch)
    return x + branch if factors is None else scaled_sum(x, branch, factors)


class VSSBlock(nn.Module):
    """`x + DropPath(SS2D(LayerNorm(x)))` on `(B, *sizes, dim)`, of 2 or 3 axes: no MLP."""

    def __init__(
        self, dim: int, d_state: int = 16, drop_path: float = 0.0, scan_backend: str = "auto", axes: int = 2
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.ss2d = SS2D(dim, d_state, scan_backend, axes)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return added(x, self.ss2d(x, self.norm), self.drop_path)
