"""`splits_final.json`: the folds of a published split, where nnU-Net reads them.

nnU-Net's trainers read the file in the dataset's folder below `nnUNet_preprocessed`; its planner copies it there from
`nnUNet_raw` where it is missing, and stops where the two differ.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json

SPLITS_FILE = "splits_final.json"
Fold = dict[str, list[str]]  # "train" and "val": names of cases


def check_splits(folder: Path | None, *, old: Sequence[Fold], new: Sequence[Fold]) -> None:
    """Whether the folds in a preprocessed folder may give way to `new`.

    Args:
        folder: the dataset's folder below `nnUNet_preprocessed`, if that is set.
        old: the folds of the dataset's last conversion.
        new: those of this one.

    Raises:
        UserError: other folds than `old` or `new` lie there.
        OSError: `new` could not be written there.
    """
    if folder is None:
        return
    if new:
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    path = folder / SPLITS_FILE
    if not path.is_file():
        return
    found = read_json(path, "Move it away")
    # nnU-Net allows more folds behind those of the raw folder; without any in `new`, its own five stay.
    begins = found[: len(new)] == list(new)
    if not begins and found != list(old):
        raise UserError(f"{path} holds other folds than this dataset's; nothing was touched. Move it away")


def put_splits(folder: Path, folds: Sequence[Fold], *, old: Sequence[Fold] = ()) -> None:
    """Write `folds`, or remove the `old` ones where there are no new ones. Other folds were refused before."""
    path = folder / SPLITS_FILE
    found = read_json(path) if path.is_file() else None
    if folds and (found is None or found[: len(folds)] != list(folds)):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(json.dumps(list(folds), indent=4) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    elif not folds and old and found == list(old):
        path.unlink()
