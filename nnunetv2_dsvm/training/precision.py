"""The number format of training on a CUDA device: bf16 where the hardware has it, nnU-Net's fp16 otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def trains_in_bf16(device: torch.device) -> bool:
    """Whether `device` computes bf16 in hardware (CUDA compute capability >= 8, not emulated)."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def bf16_autocast() -> Iterator[None]:
    """Within it CUDA's autocast, which nnU-Net's steps open without naming a type, computes in bf16."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_dtype("cuda", before)
