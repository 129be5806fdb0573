"""nnU-Net's five folds for a dataset in which several cases come from one original and must not be separated."""

import json
from collections.abc import Callable
from pathlib import Path

from nnunetv2_dsvm.files.listing import visible_files

NUM_FOLDS = 5


def write_grouped_splits(dataset_folder: Path, group_of: Callable[[str], str]) -> Path:
    """Write `splits_final.json`, which nnU-Net prefers to a split of its own: fold i validates group i, i + 5, ….

    Args:
        dataset_folder: the dataset's folder below `nnUNet_preprocessed`, with nnU-Net's `gt_segmentations`.
        group_of: a case's name to the name of its group.

    Raises:
        ValueError: there are fewer groups than folds.
    """
    references = visible_files(dataset_folder / "gt_segmentations", ".nii.gz")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in references)
    groups = sorted({group_of(case) for case in cases})
    if len(groups) < NUM_FOLDS:
        raise ValueError(f"{NUM_FOLDS} folds need {NUM_FOLDS} groups of cases, got {len(groups)}: {groups}")
    splits = []
    for fold in range(NUM_FOLDS):
        held_out = set(groups[fold::NUM_FOLDS])
        splits.append(
            {
                "train": [case for case in cases if group_of(case) not in held_out],
                "val": [case for case in cases if group_of(case) in held_out],
            }
        )
    path = dataset_folder / "splits_final.json"
    path.write_text(json.dumps(splits, indent=4) + "\n", encoding="utf-8")
    return path
