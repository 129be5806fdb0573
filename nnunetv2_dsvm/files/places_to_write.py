"""Places that a command will write to, tried before its long work. Nothing is left behind, and no folder is made."""

import os
import stat
import tempfile
from pathlib import Path

from nnunetv2_dsvm.errors import UserError

_BLOCK = 4096  # bytes; an empty file can be made on a full disk


def check_file_place(path: Path, advice: str, *, in_place: bool = False) -> None:
    """Raises UserError unless a file can be written at `path`, in a folder that exists; one that is there is kept.

    Args:
        path: of the file.
        advice: what to do otherwise, for the end of the sentence: `"name another file with -o"`.
        in_place: whether it is written where it is, which a device such as /dev/null can be too; not replaced.
    """
    try:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise UserError(f"cannot write {path}: it is a folder; {advice}")
        folder = path.resolve().parent
        if not _mode(folder):
            raise UserError(f"cannot write {path}: the folder {folder} does not exist; {advice}")
        if mode and not stat.S_ISREG(mode):
            if not in_place:
                raise UserError(f"cannot write {path}: it is no ordinary file, which could be replaced; {advice}")
            if stat.S_ISCHR(mode):  # opening /dev/full tells nothing; before JSON, an empty line is none
                with open(path, "ab", buffering=0) as device:
                    device.write(b"\n")
            return
        try_to_write(folder)
        if mode:
            with open(path, "ab"):
                pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def check_folder_place(folder: Path, advice: str, files: tuple[str, ...] = ()) -> None:
    """Raises UserError unless files can be written in `folder`, or the folder can be made.

    Args:
        folder: need not exist.
        advice: what to do otherwise, for the end of the sentence: `"choose another folder with -o"`.
        files: names in the folder that will be written.
    """
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UserError(f"cannot write into {folder}: {there} is a file, not a folder; {advice}")
        try_to_write(there)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}; {advice}") from error
    if folder.is_dir():
        for name in files:
            check_file_place(folder / name, advice)


def _mode(path: Path) -> int:
    """Of the file or folder, 0 if there is none."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0


def try_to_write(folder: Path, size: int = _BLOCK) -> None:
    """Makes a file in the folder and removes it; permissions do not tell, not to root and not of a full disk.

    Args:
        folder: that exists.
        size: bytes for which the disk must have room.

    Raises:
        OSError: it cannot be made, or nothing can be written into it.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable_") as file:
        file.write(os.urandom(size))  # which no disk compresses
        file.flush()
