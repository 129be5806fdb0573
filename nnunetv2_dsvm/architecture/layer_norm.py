"""LayerNorm with the fused GPU kernel and the dtype that the next layer wants."""

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.ops.norm import layer_norm


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis of a channels-last tensor, with affine parameters.

    Args:
        dim: channels.
        feeds_linear: the result goes into a linear or convolutional layer only, so that under autocast it may be
            written in autocast's dtype at once, instead of in fp32 and then converted.
    """

    def __init__(self, dim: int, feeds_linear: bool = False) -> None:
        super().__init__(dim)
        self.feeds_linear = feeds_linear

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        low = self.feeds_linear and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if low else None
        return layer_norm(x, self.weight, self.bias, self.eps, dtype=dtype)
