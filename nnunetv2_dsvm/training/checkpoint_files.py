"""Our own entry in nnU-Net's checkpoint files; reading and writing them so that nothing is lost or misread."""

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

KEY = "nnunetv2_dsvm"
_NNUNETS_KEYS = ("network_weights", "optimizer_state", "current_epoch", "init_args", "trainer_name", "logging")


def write_checkpoint(nnunet_checkpoint: io.BytesIO, own_entry: dict[str, Any], filename: str) -> None:
    """Adds our entry to a checkpoint that nnU-Net wrote into memory, and writes the whole to a file.

    The file is written beside its place, flushed to the disk and moved there in one step: a reader, or a run killed in
    between, finds the old checkpoint or the new one, never half of one.

    Raises:
        OSError: it could not be written; the old file is as it was, and nothing else is left.
    """
    size = nnunet_checkpoint.tell()
    nnunet_checkpoint.seek(0)
    checkpoint = torch.load(nnunet_checkpoint, map_location="cpu", weights_only=False)
    checkpoint[KEY] = own_entry
    temporary = f"{filename}.tmp"
    try:
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, filename)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if not isinstance(error, (OSError, RuntimeError)):  # torch turns some failed writes into RuntimeError
            raise
        raise OSError(_not_written(filename, size, error)) from error


def _not_written(filename: str, size: int, error: Exception) -> str:
    folder = os.path.dirname(filename)
    free = f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB" if os.path.isdir(folder) else "an unknown amount"
    kept = "The file of that name is as it was" if os.path.exists(filename) else "There was no file of that name"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"The checkpoint {filename} could not be written: {reason}. It needs about {size / 2**20:.0f} MiB, and {free} "
        f"are free on its disk. {kept}. Make room (or the folder writable) and continue the training with --c"
    )


def read_checkpoint(filename: str, *, weights_only: bool = False) -> dict[str, Any]:
    """A checkpoint of nnU-Net, its tensors left on the disk until they are used.

    Args:
        filename: the file.
        weights_only: whether the network's weights suffice, as for -pretrained_weights; else all entries of nnU-Net's
            must be there, as for continuing.

    Raises:
        RuntimeError: the file is truncated, or is no checkpoint of an nnU-Net training.
    """
    advice = "Give -pretrained_weights another file, or leave it out." if weights_only else _others(filename)
    try:
        checkpoint = torch.load(filename, map_location="cpu", weights_only=False, mmap=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RuntimeError(
            f"{filename} ({os.path.getsize(filename)} bytes) cannot be read as a checkpoint: {reason}. It is "
            f"truncated, as by an interrupted copy, or no checkpoint at all. {advice} Nothing was changed."
        ) from error
    needed = _NNUNETS_KEYS[:1] if weights_only else _NNUNETS_KEYS
    missing = [key for key in needed if not isinstance(checkpoint, Mapping) or key not in checkpoint]
    if missing:
        raise RuntimeError(
            f"{filename} is not a checkpoint of an nnU-Net training: it has no {', '.join(missing)}. "
            f"{advice} Nothing was changed."
        )
    return checkpoint


def _others(filename: str) -> str:
    others = sorted(path.name for path in Path(filename).parent.glob("checkpoint_*.pth") if path != Path(filename))
    if not others:
        return "There is no other checkpoint beside it: start the training again, without --c."
    return f"Beside it lie {', '.join(others)}: move the broken file away and rename one of them to take its place."


def remove_leftovers(folder: str) -> None:
    """Removes what a run that was killed while it wrote a checkpoint has left beside it."""
    for path in Path(folder).glob("checkpoint_*.pth.tmp"):
        path.unlink()
