"""Refuses an image that is not finite at inference, where one NaN would silently become a label map of background."""

import math

import torch
from torch import Tensor


def refuse_if_not_finite(x: Tensor) -> None:
    """Raises ValueError when images `(B, channels, H, W)` hold NaN or infinite values.

    One sum tells on good images, so that a GPU has one small kernel more to run. Nothing is looked at where a value
    cannot be read: on the meta device, and while a CUDA graph is being recorded.
    """
    if x.device.type == "meta" or (x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return
    if math.isfinite(x.sum(dtype=torch.float32).item()):
        return
    bad = ~x.isfinite()
    if bad.any():  # else the sum has overflown
        channels = bad.any(dim=(0, 2, 3)).nonzero().flatten().tolist()
        raise ValueError(
            f"the image given to the network holds NaN or infinite values: {int(bad.sum())} of {bad.numel()} pixels, "
            f"in channel {', '.join(map(str, channels))}. It belongs to the case that nnU-Net has named last "
            "('Predicting ...'). Look for NaN or infinite intensities in its file; one of them can spread over "
            "the whole image when intensities are normalised"
        )
