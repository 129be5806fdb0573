"""Writing files and folders so that nothing is lost: beside their place first, then moved there in one step.

Until that step, and after any exception, what lay there is as it was. What is being written lies in a hidden folder
beside the place, under its own name, so that endings keep their meaning and no listing takes it for a finished one.
Where the place is a link, the link stays and what it names is replaced.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".partial_"  # begins the name of every such folder
OLD = "old"  # the folder that is being replaced, between two renames


@contextmanager
def replaced_file(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Where to write a file that takes the place `path` when the block has ended without an exception.

    Args:
        path: in a folder that exists; a file there is replaced, and its permissions stay.
        new: nothing may lie there yet.

    Raises:
        FileExistsError: something lies there, though it must be new.
        OSError: the place cannot be written, or is a folder, a device or another thing than a file.
    """
    with beside(path) as folder:
        partial = folder / path.name
        yield partial
        if new and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        put_in_place(partial, path)


def write_text(path: Path, text: str, *, new: bool = False) -> None:
    """Writes a file of this text, in UTF-8; see `replaced_file`."""
    with replaced_file(path, new=new) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """An empty hidden folder on the disk of `path`, removed at the end: for files that take their places together.

    A run that is killed leaves it; see `remove_unfinished`.
    """
    place = Path(os.path.realpath(path))
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=place.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(file: Path, path: Path) -> None:
    """Moves a finished file to `path`, on the same disk, once its content is on the disk.

    Raises:
        OSError: the content cannot be written, or something else than a file lies at `path`.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise OSError(errno.EINVAL, "it is no ordinary file, which could be replaced", str(path))
    with open(file, "rb+") as content:
        os.fsync(content.fileno())
    if place.exists():
        shutil.copymode(place, file)
    os.replace(file, place)


def set_aside(path: Path, name: str) -> None:
    """Gives a file another name in its folder, which no other file there has."""
    path.rename(path.with_name(name))


def remove_unfinished(folder: Path) -> None:
    """Removes what runs that were killed have left in a folder; nobody else may be writing into it."""
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """An empty folder named like `path`, which takes its place when the block has ended without an exception.

    One run at a time may replace a folder. One that is killed, even between the two renames, loses nothing: the next
    one, or `recover`, puts the old folder back. Files are not flushed to the disk one by one.
    """
    recover(path)
    unfinished = _beside_folder(path)
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
    partial = unfinished / path.name
    partial.mkdir(parents=True)
    place = Path(os.path.realpath(path))
    try:
        yield partial
        _exchange(partial, place)
    finally:
        if place.exists() or not (unfinished / OLD).exists():
            shutil.rmtree(unfinished, ignore_errors=True)


def recover(path: Path) -> None:
    """Puts the old folder back if a run was killed between the two renames."""
    old = _beside_folder(path) / OLD
    if old.exists() and not path.exists():
        os.replace(old, os.path.realpath(path))


def _beside_folder(path: Path) -> Path:
    # Hidden and below a folder of its own: nnU-Net takes every folder `DatasetXXX…` for a dataset.
    return Path(os.path.realpath(path)).parent / f"{UNFINISHED}{path.name}"


def _exchange(partial: Path, place: Path) -> None:
    old = partial.with_name(OLD)
    if place.exists():
        os.replace(place, old)
    try:
        os.replace(partial, place)
    except BaseException:
        if old.exists():
            os.replace(old, place)
        raise
