"""Our own entry in nnU-Net's checkpoint files; reading and writing them so that nothing is lost or misread."""

import io
import itertools
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nnunetv2_dsvm.errors import Refusal, UserError
from nnunetv2_dsvm.files.atomic_write import beside, remove_unfinished, replaced_file, set_aside
from nnunetv2_dsvm.files.text import first_line
from nnunetv2_dsvm.nnunet.names import CHECKPOINTS, FINAL

KEY = "nnunetv2_dsvm"
_NNUNETS_KEYS = ("network_weights", "optimizer_state", "current_epoch", "init_args", "trainer_name", "logging")


class CheckpointNotWritten(Refusal, OSError):
    """The disk is full, or its folder was closed; the message says how to go on."""


def write_checkpoint(nnunet_checkpoint: io.BytesIO, own_entry: dict[str, Any], filename: str) -> None:
    """Adds our entry to a checkpoint that nnU-Net wrote into memory, and writes the whole to a file.

    A reader, or a run killed in between, finds the old checkpoint or the new one, never half of one.

    Raises:
        CheckpointNotWritten: the old file is as it was, and nothing else is left.
    """
    size = nnunet_checkpoint.tell()
    nnunet_checkpoint.seek(0)
    checkpoint = torch.load(nnunet_checkpoint, map_location="cpu", weights_only=False)
    checkpoint[KEY] = own_entry
    try:
        with replaced_file(Path(filename)) as partial, open(partial, "wb") as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch turns some failed writes into RuntimeError
        raise CheckpointNotWritten(_not_written(filename, size, error)) from error


def _not_written(filename: str, size: int, error: Exception) -> str:
    folder = os.path.dirname(filename)
    free = f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB" if os.path.isdir(folder) else "an unknown amount"
    kept = "The file of that name is as it was" if os.path.exists(filename) else "There was no file of that name"
    return (
        f"The checkpoint {filename} could not be written: {first_line(error)}. It needs about "
        f"{size / 2**20:.1f} MiB, and {free} are free on its disk. {kept}. Make room (or the folder writable) and "
        f"{how_to_go_on(folder)}"
    )


def how_to_go_on(folder: str) -> str:
    """What an interrupted training can do next, by the checkpoints in its folder, as the end of a sentence."""
    there = [name for name in CHECKPOINTS if os.path.isfile(os.path.join(folder, name))]
    if not there:
        return "start the training again, without --c: it has written no checkpoint to continue from"
    if there[0] == FINAL:
        return "repeat the final validation with --val: the training itself is finished"
    return f"continue with --c from {there[0]}"


def read_checkpoint(filename: str) -> dict[str, Any]:
    """A checkpoint of nnU-Net, its tensors left on the disk until they are used.

    Raises:
        UserError: the file is truncated, or is no checkpoint of an nnU-Net training.
    """
    try:
        checkpoint = torch.load(filename, map_location="cpu", weights_only=False, mmap=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise UserError(
            f"{filename} ({os.path.getsize(filename)} bytes) cannot be read as a checkpoint: {first_line(error)}. It "
            "is truncated, as by an interrupted copy, or no checkpoint at all. "
            f"{_others(filename)} Nothing was changed."
        ) from error
    _refuse_damaged(filename)
    _refuse_foreign(checkpoint, filename, advice=_others(filename))
    return checkpoint


@contextmanager
def in_a_file(checkpoint: Mapping[str, Any], folder: str) -> Iterator[str]:
    """The name of a file below `folder` that holds the checkpoint; removed at the end.

    nnU-Net's `load_checkpoint` declares that it takes a dictionary too, but (2.8.1) can only load files.

    Raises:
        UserError: it is no checkpoint of an nnU-Net training.
    """
    _refuse_foreign(checkpoint, "the dictionary", advice="Give what a checkpoint file of nnU-Net holds.")
    with beside(Path(folder, FINAL)) as unfinished:
        filename = str(unfinished / FINAL)
        torch.save(dict(checkpoint), filename)
        yield filename


def _refuse_damaged(filename: str) -> None:
    # torch does not compare the checksums that it writes with every tensor.
    with zipfile.ZipFile(filename) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(
            f"{filename} is damaged: the checksum of {damaged} in it is wrong. {_others(filename)} Nothing was changed."
        )


def _refuse_foreign(checkpoint: Any, name: str, advice: str) -> None:
    missing = [key for key in _NNUNETS_KEYS if not isinstance(checkpoint, Mapping) or key not in checkpoint]
    if missing:
        raise UserError(
            f"{name} is not a checkpoint of an nnU-Net training: it has no {', '.join(missing)}. {advice} "
            "Nothing was changed."
        )


def _others(filename: str) -> str:
    paths = [Path(filename).with_name(name) for name in CHECKPOINTS]
    others = [path.name for path in paths if path != Path(filename) and path.is_file()]
    if not others:
        return "There is no other checkpoint beside it: start the training again, without --c."
    return f"Beside it lie {', '.join(others)}: move the broken file away, and --c goes on from {others[0]}."


def set_earlier_training_aside(folder: str) -> list[str]:
    """Renames the checkpoints that an earlier training left in the folder of a new one; their new names.

    Else nnU-Net would, if the new training is interrupted, continue the earlier one instead and remove the new one's.
    """
    there = [path for name in CHECKPOINTS if (path := Path(folder, name)).is_file()]
    if not there:
        return []
    number = next(n for n in itertools.count(1) if not any(Path(folder).glob(f"earlier_{n}_*")))
    names = {path: f"earlier_{number}_{path.name}" for path in there}
    for path, name in names.items():
        set_aside(path, name)
    return list(names.values())


def remove_leftovers(folder: str) -> None:
    """Removes what a run that was killed while it wrote a file has left in the folder of its fold."""
    remove_unfinished(Path(folder))
    for path in Path(folder).glob("checkpoint_*.pth.tmp"):  # of version 0.1.0
        path.unlink()
