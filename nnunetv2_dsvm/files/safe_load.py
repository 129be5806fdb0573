"""Reads a file of torch.save without running what its pickle may ask for."""

import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from nnunetv2_dsvm.errors import UserError


def load_safely(path: Path) -> Any:
    """`torch.load(weights_only=True)` on the CPU, with an error that says what to do.

    NumPy's numbers, as in nnU-Net's log, come back empty. The tensors of a zip file, torch's format since 1.6, stay on
    the disk until they are used.

    Raises:
        UserError: the file is missing, truncated, no checkpoint, or asks for more than tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if foreign:
            raise UserError(
                f"{path} was not loaded: it asks for {foreign[1]}, and only tensors and plain values are read, "
                "because anything else can run code. Nothing of it was run. If you trust its origin, load it in "
                "Python yourself (weights_only=False) and save without that entry what it holds"
            ) from error
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) cannot be read{f' ({reason[1]})' if reason else ''}: it is "
            "truncated, as by an interrupted download, or no checkpoint of PyTorch. Download or copy it again."
        ) from error


def _stand_in(module: str, name: str, **methods: Any) -> type:
    return type(name, (), {"__module__": module, **methods})


def _forget(self, *arguments: Any) -> None:
    pass


# What these checkpoints hold beside tensors and plain values: nnU-Net's log has NumPy's numbers (of both of its
# versions), and VMamba's training stores its configuration. Classes of the same names take their places, which keep
# nothing and run nothing. (Of the classes that take items, torch fills an OrderedDict.)
_NUMPY = (("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"))
_STAND_INS = [
    *(_stand_in(module, name, __init__=_forget, __setstate__=_forget) for module, name in _NUMPY),
    _stand_in("yacs.config", "CfgNode", __new__=lambda cls: OrderedDict()),
]
