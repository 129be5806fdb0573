"""`splits_final.json`: the folds of a published split, or of cases that belong together, where nnU-Net reads them.

nnU-Net's trainers read the file in the dataset's folder below `nnUNet_preprocessed`; its planner copies it there from
`nnUNet_raw` where it is missing, and stops where the two differ.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json, write_json
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.files.places_to_write import try_to_write
from nnunetv2_dsvm.nnunet.names import GROUND_TRUTH, SPLITS_JSON

NUM_FOLDS = 5  # of nnU-Net's own splits
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
        try_to_write(next(place for place in (folder, *folder.parents) if place.exists()))
    path = folder / SPLITS_JSON
    if not path.is_file():
        return
    found = read_json(path, "Move it away")
    # nnU-Net allows more folds behind those of the raw folder; without any in `new`, its own five stay.
    begins = found[: len(new)] == list(new)
    if not begins and found != list(old):
        raise UserError(f"{path} holds other folds than this dataset's; nothing was touched. Move it away")


def put_splits(folder: Path, folds: Sequence[Fold], *, old: Sequence[Fold] = ()) -> None:
    """Write `folds`, or remove the `old` ones where there are no new ones. Other folds were refused before."""
    path = folder / SPLITS_JSON
    found = read_json(path) if path.is_file() else None
    if folds and (found is None or found[: len(folds)] != list(folds)):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, list(folds), indent=4)
    elif not folds and old and found == list(old):
        path.unlink()


def write_grouped_splits(dataset_folder: Path, group_of: Callable[[str], str]) -> Path:
    """Write five folds in which cases that come from one original stay together: fold i validates group i, i + 5, ….

    Args:
        dataset_folder: the dataset's folder below `nnUNet_preprocessed`, with nnU-Net's `gt_segmentations`.
        group_of: a case's name to the name of its group.

    Returns:
        The file `splits_final.json`, which nnU-Net prefers to a split of its own.

    Raises:
        ValueError: there are fewer groups than folds.
    """
    references = visible_files(dataset_folder / GROUND_TRUTH, ".nii.gz")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in references)
    groups = sorted({group_of(case) for case in cases})
    if len(groups) < NUM_FOLDS:
        raise ValueError(f"{NUM_FOLDS} folds need {NUM_FOLDS} groups of cases, got {len(groups)}: {groups}")
    splits: list[Fold] = []
    for fold in range(NUM_FOLDS):
        held_out = set(groups[fold::NUM_FOLDS])
        splits.append(
            {
                "train": [case for case in cases if group_of(case) not in held_out],
                "val": [case for case in cases if group_of(case) in held_out],
            }
        )
    path = dataset_folder / SPLITS_JSON
    write_json(path, splits, indent=4)
    return path
