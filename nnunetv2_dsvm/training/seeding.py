"""Repeatable training: one seed from the environment, from which every epoch's random numbers follow."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from nnunetv2_dsvm.errors import UserValueError

SEED_VARIABLE = "NNUNETV2_DSVM_SEED"


def seed_from_environment() -> int | None:
    """The seed in NNUNETV2_DSVM_SEED, or None when it is unset or empty.

    Raises:
        UserValueError: it is set to something other than an integer from 0 on.
    """
    value = os.environ.get(SEED_VARIABLE, "").strip()
    if not value:
        return None
    if not (value.isascii() and value.isdigit()):
        raise UserValueError(f"{SEED_VARIABLE} must be an integer from 0 on, got {value!r}; unset it to train unseeded")
    return int(value)


def seed_all(seed: int, *stream: int) -> None:
    """Seeds Python's, NumPy's and torch's generators (all devices) from the seed and the numbers of a stream.

    Args:
        seed: the user's seed.
        stream: non-negative integers, such as an epoch and a rank, each combination a stream of its own.
    """
    state = np.random.SeedSequence([seed, *stream]).generate_state(3, np.uint32)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Within it torch takes deterministic algorithms where it has them and warns, once each, where it has none."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
