"""Reads a file of torch.save without running what its pickle may ask for."""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2_dsvm.errors import UserError


class UnsafePickle(UserError):
    """A file asks for more than tensors, numbers and plain values, which could run code; nothing of it was run."""


def load_safely(path: Path) -> Any:
    """`torch.load(weights_only=True)` on the CPU, with an error that says what to do.

    NumPy's numbers, as in nnU-Net's log, and arrays of numbers are read too; of other types they come back empty. The
    tensors of a zip file, torch's format since 1.6, stay on the disk until they are used.

    Raises:
        UserError: the file is missing, truncated, no checkpoint, or saved by another of pickle's protocols.
        UnsafePickle: it asks for more than tensors, numbers and plain values; a UserError too.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what is unread is said below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if foreign:
            raise UnsafePickle(
                f"{path} was not loaded: it asks for {foreign[1]}, and only tensors, numbers and plain values are "
                "read, because anything else can run code. Nothing of it was run. If you trust its origin, load it in "
                "Python yourself (weights_only=False) and save without that entry what it holds"
            ) from error
        if "Unsupported operand" in str(error) and (protocol := _protocol(path)) > 2:
            raise UserError(
                f"{path} was not loaded: it was saved by pickle's protocol {protocol}, and only torch.save's own, 2, "
                "is read without running code. If you trust its origin, load it in Python yourself "
                "(weights_only=False) and save it again by torch.save"
            ) from error
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) cannot be read{f' ({reason[1]})' if reason else ''}: it is "
            "truncated, as by an interrupted download, or no checkpoint of PyTorch. Download or copy it again."
        ) from error


def _protocol(path: Path) -> int:
    """Of the pickle in a file of torch.save, which says so in its first two bytes from protocol 2 on; else 0."""
    with open(path, "rb") as file:
        start = file.read(2)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            start = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))[:2]
    return start[1] if start[:1] == b"\x80" and len(start) == 2 else 0


# What these checkpoints hold beside tensors and plain values: nnU-Net's log has NumPy's numbers (of both of its
# versions), and VMamba's training stores its configuration. Classes of the same names take their places, which read
# numbers and run nothing: NumPy's own would take a `dtype` of the file's making, which can point anywhere in memory.
# (Of the classes that take items, torch fills an OrderedDict.)


class _Type:
    """In the place of `numpy.dtype`."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def of_numbers(self) -> np.dtype | None:
        dtype = np.dtype(str(self.name))
        if dtype.kind not in "biufc":
            return None
        return dtype.newbyteorder(">") if self.order == ">" else dtype


def _scalar(cls: type, dtype: _Type, data: bytes) -> np.generic | None:
    numbers = dtype.of_numbers()
    return None if numbers is None else np.frombuffer(data, numbers)[0]


class _Array(np.ndarray):
    """In the place of `numpy.ndarray`."""

    def __new__(cls, *_: Any) -> "_Array":
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, in_fortrans_order, data = state
        if numbers := dtype.of_numbers():
            super().__setstate__((version, shape, numbers, in_fortrans_order, data))


def _empty_array(cls: type, *_: Any) -> _Array:
    return _ARRAY()


def _named(module: str, name: str, *bases: type, **methods: Any) -> type:
    return type(name, bases, {"__module__": module, **methods})


_ARRAY = _named("numpy", "ndarray", _Array)
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    _ARRAY,
    _named("builtins", "bytes", __new__=lambda cls: b""),  # of an array without elements
    _named("numpy", "dtype", _Type),
    _named("yacs.config", "CfgNode", __new__=lambda cls: OrderedDict()),
]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _STAND_INS.append(_named(_module, "scalar", __new__=_scalar))
    _STAND_INS.append(_named(_module, "_reconstruct", __new__=_empty_array))
