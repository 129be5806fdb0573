"""Images and logits that are not finite at inference, where one NaN would silently become a label map of background."""

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.precision import VARIABLE
from nnunetv2_dsvm.errors import UserValueError


def is_recorded() -> bool:
    """Whether torch compiles, exports or traces: a program, in which no result may be looked at."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def check_finite(x: Tensor) -> None:
    """Raises UserValueError when images `(B, channels, *sizes)` hold NaN or infinite values, but not on CUDA or meta.

    A GPU would have to be waited for; see `infinite_unless_finite`.
    """
    if x.device.type in ("meta", "cuda") or x.isfinite().all():
        return
    bad = ~x.isfinite()
    channels = bad.transpose(0, 1).flatten(1).any(dim=1).nonzero().flatten().tolist()
    points = "voxels" if x.ndim == 5 else "pixels"
    raise UserValueError(
        f"the image given to the network holds NaN or infinite values: {int(bad.sum())} of {bad.numel()} {points}, "
        f"in channel {', '.join(map(str, channels))}. It belongs to the case that nnU-Net has named last "
        "('Predicting ...'; with -npp 0 -nps 0, which name none: the first one without a label map). Look for NaN or "
        "infinite intensities in its file; one of them can spread over the whole image when intensities are normalised"
    )


def finite_or_refused(logits: list[Tensor], x: Tensor, network: nn.Module) -> list[Tensor]:
    """Each of the logits `(B, classes, …)` if they are finite. Else they are refused.

    On CUDA and in a recorded program, nothing may wait for the result: there they become infinite, for the whole batch.
    nnU-Net stops at infinite logits with a sentence of its own; NaN it would take for background.

    Raises:
        UserValueError: elsewhere; the message says why, and how to predict such an image.
    """
    if x.device.type == "cuda" or is_recorded():
        image = (x * 0).sum()  # 0 or NaN; isfinite takes four kernels, which small networks feel
        return [torch.where((t * 0).sum() + image == 0, t, torch.inf) for t in logits]
    if x.device.type != "meta" and not all(t.isfinite().all() for t in logits):
        raise UserValueError(_why_not_finite(logits[0].dtype, x, network))
    return logits


def _why_not_finite(dtype: torch.dtype, x: Tensor, network: nn.Module) -> str:
    ruined = [name for name, p in network.named_parameters() if not p.isfinite().all()]
    if ruined:
        why = f"{len(ruined)} of its parameters are not finite, the first being {ruined[0]}: use other weights"
    elif dtype != torch.float16:
        why = f"they exceed the range of {dtype}: normalise the intensities"
    else:
        way = "make the network float32 by network.float()"
        if torch.is_autocast_enabled(x.device.type):
            way = f"set the environment variable {VARIABLE}=float32 (or bfloat16)"
        why = f"they exceed the range of float16, which ends at 65504: {way}, or normalise the intensities"
    return (
        f"the network's logits are NaN or infinite though the image is finite (intensities from {x.min().item():g} to "
        f"{x.max().item():g}), and no label map can be made of them. Most likely {why}"
    )
