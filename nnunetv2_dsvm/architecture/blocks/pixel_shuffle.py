"""The rearrangement of channels into pixels as VM-UNet's relatives have it. Channels last."""

from torch import Tensor


def offsets_first_shuffle(x: Tensor, scale: int) -> Tensor:
    """`(B, H, W, scale² C)` to `(B, scale H, scale W, C)`, the offsets of row and column slower than the channel.

    `torch.pixel_shuffle` has the channel slowest.
    """
    batch, height, width, _ = x.shape
    x = x.unflatten(-1, (scale, scale, -1)).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, scale * height, scale * width, -1)
