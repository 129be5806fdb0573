"""Operators on the GPU of their tensors, whichever GPU is the current one, and the type of what they compute."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def on_its_device(operator: Callable) -> Callable:
    """Runs an operator while the GPU of its first tensor is the current one, on which Triton launches its kernels."""

    @wraps(operator)
    def run(x: Tensor, *arguments: Any) -> Any:
        with _device_of(x):
            return operator(x, *arguments)

    return run


def _device_of(x: Tensor) -> AbstractContextManager:
    if x.device.type == "cuda":
        return torch.cuda.device_of(x)
    return torch.xpu.device_of(x) if x.device.type == "xpu" else nullcontext()


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast computes in on x's device, without autocast x's own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
