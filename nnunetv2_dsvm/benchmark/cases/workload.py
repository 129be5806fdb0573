"""What is measured: something that infers, and that trains in two phases."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _nothing(training: bool) -> None:
    pass


@dataclass(frozen=True)
class Workload:
    """Calls on data and weights that they hold.

    Args:
        infer: one forward pass without autograd; returns the output.
        forward: one forward pass that autograd records; returns what `backward` takes.
        backward: the rest of a training step.
        set_training: called with False before `infer` and with True before `forward`, outside of what is timed.
        held: tensors that exist before the call and are not counted as kept for backward.
    """

    infer: Callable[[], Any]
    forward: Callable[[], Any]
    backward: Callable[[Any], Any]
    set_training: Callable[[bool], object] = _nothing
    held: tuple[torch.Tensor, ...] = ()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision for the 16-bit types, as nnU-Net uses it; nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
