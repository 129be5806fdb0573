"""What is left of VM-UNet's block without its scan: the gate and the depthwise convolution. Channels last. (Ours.)"""

from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import convolution, depthwise
from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm
from nnunetv2_dsvm.architecture.blocks.vss_block import DropPath, added
from nnunetv2_dsvm.ops.layer_norm import layer_norm


class GatedConvolution(nn.Module):
    """`SS2D` with y = x in the place of the scan, `(B, *sizes, dim)` to the same shape: what does the scan add?

    The scan's skip D · x is a part of the scan, and gone with x_proj, dt_proj, dt_bias and A_log: as the norm that
    follows takes every factor away, y = x is what all directions' skips of D = 1, their value at the start, add up to.
    Pixels then see each other through the convolution of 3 along each axis alone.

    Args:
        dim: channels; the convolution runs on d_inner = 2 dim.
        axes: of the grid, 2 or 3.
    """

    def __init__(self, dim: int, axes: int = 2) -> None:
        super().__init__()
        d_inner = 2 * dim
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv = convolution(axes)(d_inner, d_inner, kernel_size=3, padding=1, groups=d_inner)
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)
        y = depthwise(self.conv, x, "silu")
        norm = self.out_norm
        return self.out_proj(layer_norm(y, norm.weight, norm.bias, norm.eps, gate=z, dtype=z.dtype))


class GatedConvolutionBlock(nn.Module):
    """`x + DropPath(GatedConvolution(LayerNorm(x)))` on `(B, *sizes, dim)`: `VSSBlock` without its scan.

    Its weights are not named as those of `VSSBlock`, which has all of them: nnU-Net's `-pretrained_weights` would take
    them from a VM-UNet without a word.
    """

    def __init__(self, dim: int, drop_path: float = 0.0, axes: int = 2) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.gated_convolution = GatedConvolution(dim, axes)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return added(x, self.gated_convolution(self.norm(x)), self.drop_path)
