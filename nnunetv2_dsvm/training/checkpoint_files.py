"""Our own entry in nnU-Net's checkpoint files, and writing them so that a crash never destroys the last one."""

import io
import os
from typing import Any

import torch

KEY = "nnunetv2_dsvm"


def write_checkpoint(nnunet_checkpoint: io.BytesIO, own_entry: dict[str, Any], filename: str) -> None:
    """Adds our entry to a checkpoint that nnU-Net wrote into memory, and writes the whole to a file.

    The file is written beside its place, flushed to the disk and moved there in one step: a reader, or a run killed in
    between, finds the old checkpoint or the new one, never half of one.
    """
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
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def read_own_entry(filename: str) -> tuple[dict[str, Any], str]:
    """Our entry of a checkpoint file ({} where another trainer wrote it) and the name of the trainer that wrote it."""
    checkpoint = torch.load(filename, map_location="cpu", weights_only=False, mmap=True)
    return checkpoint.get(KEY, {}), checkpoint.get("trainer_name", "an unknown trainer")
