"""The number formats that the losses compute in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_fp32(features: Tensor) -> Tensor:
    """The feature map in fp32, or in its own type if that is wider."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def autocast_off(device_type: str) -> AbstractContextManager:
    """A context without autocast on this device type; where it is off already, nothing is touched.

    A mean over millions of squared 16-bit differences overflows fp16 and loses its digits in bf16.
    """
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
