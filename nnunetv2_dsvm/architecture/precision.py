"""The number format of inference, which the caller's autocast decides unless the user does."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from nnunetv2_dsvm.errors import UserValueError

VARIABLE = "NNUNETV2_DSVM_PRECISION"
_TYPES = ("float32", "bfloat16")


def inference_precision(device_type: str) -> AbstractContextManager:
    """Within it the network computes in the type that the environment variable names, if one is named.

    nnU-Net predicts in float16 on GPUs, whose range ends at 65504.

    Raises:
        UserValueError: the variable names another type.
    """
    name = _named()
    if not name or device_type == "meta" or (name == "float32" and not torch.is_autocast_enabled(device_type)):
        return nullcontext()
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=name == "bfloat16")


@contextmanager
def inference_in_float32() -> Iterator[None]:
    """Within it this package's networks infer in float32, as if the user's variable, unset, said so."""
    os.environ[VARIABLE] = "float32"
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def without_autocast(device_type: str) -> AbstractContextManager:
    """Within it layers compute in the type of their weights and inputs."""
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


@torch.compiler.assume_constant_result
def _named() -> str:
    name = os.environ.get(VARIABLE, "")
    if name and name not in _TYPES:
        raise UserValueError(f"{VARIABLE}={name}: expected {' or '.join(_TYPES)}; unset it for the caller's autocast")
    return name


@contextmanager
def without_autocast_cache() -> Iterator[None]:
    """Within it autocast converts weights for this call only.

    Its cache belongs to all threads: one would get weights that another converts on its stream, and in older torch,
    while it trains, weights that another converted without a gradient.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
