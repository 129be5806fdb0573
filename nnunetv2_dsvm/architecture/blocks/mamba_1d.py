"""Mamba of a sequence (arXiv 2312.00752), as U-Mamba and LightM-UNet apply it to the positions of an image."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.architecture.precision import without_autocast
from nnunetv2_dsvm.ops import ScanOrder

_TAPS = 4  # of the causal convolution


class Mamba(DirectionalScan):
    """Gated selective scan of a sequence from the first token to the last, `(B, L, dim)` to the same shape.

    Everything in it is computed in the type of its weights, whatever autocast says: in fp16 its outputs, which no norm
    follows, have grown until they were not finite (U-Mamba's issues 8 and 37, mamba's 72).

    Args:
        dim: channels; the scan runs on d_inner = 2 dim.
        d_state: states per channel, N.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
    """

    def __init__(self, dim: int, d_state: int = 16, scan_backend: str = "auto") -> None:
        d_inner, forwards = 2 * dim, ScanOrder((0,))
        super().__init__(d_inner, math.ceil(dim / 16), d_state, axes=1, orders=[forwards], scan_backend=scan_backend)
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv = nn.Conv1d(d_inner, d_inner, kernel_size=_TAPS, groups=d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)
        self.reset_scan_parameters()

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Mamba(norm(x)), in the type of the weights."""
        dtype = self.in_proj.weight.dtype
        with without_autocast(x.device.type):
            x, z = self.in_proj(norm(x.to(dtype))).chunk(2, dim=-1)
            x = F.silu(self.conv(F.pad(x.mT, (_TAPS - 1, 0))).mT)
            return self.out_proj((self.scan(x) * F.silu(z)).to(dtype))
