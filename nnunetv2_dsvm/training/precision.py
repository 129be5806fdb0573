"""The number format of training on a CUDA device: bf16 where the hardware has it, nnU-Net's fp16 otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.host.devices import trains_in_bf16

Precision = Literal["auto", "bf16", "fp16", "fp32"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def training_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """What a training on `device` computes in under autocast; on other devices than CUDA nnU-Net has no autocast.

    Raises:
        ValueError: no such precision.
    """
    if precision == "auto":
        return torch.bfloat16 if trains_in_bf16(device) else torch.float16
    if precision not in _TYPES:
        raise UserValueError(f"precision must be one of auto, {', '.join(_TYPES)}, got {precision!r}")
    return _TYPES[precision]


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """Within it CUDA's autocast, which nnU-Net's steps open without naming a type, computes in `dtype`."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_dtype("cuda", before)
