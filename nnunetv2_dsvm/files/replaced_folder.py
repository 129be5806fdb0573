"""A dataset's folder that is written beside its place and then renamed: there only when it is complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OLD = "old"  # the dataset that is being replaced, between two renames


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """An empty folder named like `path`, which takes its place when the block has ended without an exception.

    Until then, and after any exception, `path` is as it was. A run that was killed loses nothing either: see `recover`.
    """
    recover(path)
    beside = _beside(path)
    shutil.rmtree(beside, ignore_errors=True)  # of a killed run
    partial = beside / path.name
    partial.mkdir(parents=True)
    try:
        yield partial
        _rename(partial, path)
    finally:
        if path.exists() or not (beside / OLD).exists():
            shutil.rmtree(beside, ignore_errors=True)


def recover(path: Path) -> None:
    """Put the old folder back if a run was killed between the two renames."""
    old = _beside(path) / OLD
    if old.exists() and not path.exists():
        os.replace(old, path)


def _beside(path: Path) -> Path:
    # Hidden and below a folder of its own: nnU-Net takes every folder `DatasetXXX…` for a dataset.
    return path.parent / f".partial_{path.name}"


def _rename(partial: Path, path: Path) -> None:
    old = partial.with_name(OLD)
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(partial, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise
