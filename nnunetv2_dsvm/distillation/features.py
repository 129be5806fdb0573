"""What both distillation terms ask of the feature maps they are given: known channels, and at least 32-bit floats."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn import functional as F


def at_least_fp32(features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The feature maps in fp32, or in their own type if that is wider."""
    return [f.to(torch.promote_types(f.dtype, torch.float32)) for f in features]


def autocast_off(device_type: str) -> AbstractContextManager:
    """A context without autocast on this device type; where it is off already, nothing is touched.

    A mean over millions of squared 16-bit differences overflows fp16 and loses its digits in bf16.
    """
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def check_channels(side: str, features: Sequence[torch.Tensor], channels: Sequence[int]) -> None:
    """Raises ValueError unless `features` are one (B, C_l, H_l, W_l) map per entry of `channels`."""
    shapes = [tuple(f.shape) for f in features]
    if any(len(shape) != 4 for shape in shapes) or [shape[1] for shape in shapes] != list(channels):
        raise ValueError(
            f"the {side} features have the shapes {shapes}, but the distillation was built for 2D maps (B, C, H, W) "
            f"of {list(channels)} channels, highest resolution first"
        )


def pixel_weight(mask: torch.Tensor | None, size: Sequence[int]) -> torch.Tensor | None:
    """How much each pixel of a feature map of this size counts: the share of the mask that it covers.

    A pixel of the features stands for a square of the image. Where the whole square is ignored it weighs 0: the pair is
    not compared there, and no gradient starts there. Ours.

    Args:
        mask: (B, 1, H, W), 1 where the image counts and 0 where it is ignored; None: everything counts.
        size: height and width of the feature map.
    """
    return None if mask is None else F.adaptive_avg_pool2d(mask, size)
