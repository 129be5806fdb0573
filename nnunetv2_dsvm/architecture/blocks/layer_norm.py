"""LayerNorm with the fused GPU kernel, in the dtype that the next layer wants."""

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.ops.layer_norm import layer_norm
from nnunetv2_dsvm.ops.resampling import Resampling


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis of a channels-last tensor, with affine parameters.

    Computed in fp32. Under autocast the result has autocast's type, not fp32 as torch's: what follows is a product,
    which would convert it, or a residual stream, which is of that type in the other stages anyway.
    """

    def forward(self, x: Tensor, resampling: Resampling | None = None) -> Tensor:
        """The norm of x, or of `resampling(x)`."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return layer_norm(x, self.weight, self.bias, self.eps, dtype=dtype, resampling=resampling)
