"""Images that are not finite at inference, where one NaN would silently become a label map of background."""

import torch
from torch import Tensor

from nnunetv2_dsvm.errors import UserValueError


def refuse_if_not_finite(x: Tensor) -> None:
    """Raises UserValueError when images `(B, channels, H, W)` hold NaN or infinite values, but not on CUDA or meta.

    A GPU would have to be waited for; see `infinite_unless_finite`.
    """
    if x.device.type in ("meta", "cuda") or x.isfinite().all():
        return
    bad = ~x.isfinite()
    channels = bad.any(dim=(0, 2, 3)).nonzero().flatten().tolist()
    raise UserValueError(
        f"the image given to the network holds NaN or infinite values: {int(bad.sum())} of {bad.numel()} pixels, "
        f"in channel {', '.join(map(str, channels))}. It belongs to the case that nnU-Net has named last "
        "('Predicting ...'; with -npp 0 -nps 0, which name none: the first one without a label map). Look for NaN or "
        "infinite intensities in its file; one of them can spread over the whole image when intensities are normalised"
    )


def infinite_unless_finite(logits: Tensor, x: Tensor) -> Tensor:
    """The logits `(B, classes, …)`; on CUDA all infinite for a batch x that is not finite, which nnU-Net refuses.

    Nothing waits for the GPU. nnU-Net stops at infinite logits with a sentence of its own; NaN it would take for
    background.
    """
    if x.device.type != "cuda":
        return logits
    return torch.where(x.isfinite().all(), logits, torch.inf)
