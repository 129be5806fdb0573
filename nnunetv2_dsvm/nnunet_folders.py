"""Where nnU-Net keeps a dataset: trained models and their checkpoints, raw images, ground truth; by its variables."""

import os
from pathlib import Path
from typing import Literal

from nnunetv2_dsvm.errors import UserError

Kind = Literal["raw", "preprocessed", "results"]
# Of a fold, in the order in which nnU-Net's --c takes them.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")


def nnunet_folder(kind: Kind) -> Path | None:
    """The folder that nnU-Net's variable names; None where it is not set."""
    value = os.environ.get(f"nnUNet_{kind}", "").strip()
    return Path(value) if value else None


def folder_of_models(dataset: str) -> Path:
    """A dataset's folder of trained models, `nnUNet_results/DatasetXXX_Name`.

    Args:
        dataset: its number, or its whole name.

    Raises:
        UserError: nnUNet_results is not set, or there is no such dataset, or more than one.
    """
    results = nnunet_folder("results")
    if results is None:
        raise UserError("nnUNet_results is not set: it names the folder of the trained models, as for their training")
    if dataset.isdecimal():
        found = sorted(path for path in results.glob(f"Dataset{int(dataset):03d}_*") if path.is_dir())
    else:
        found = [results / dataset] if dataset and (results / dataset).is_dir() else []
    if len(found) != 1:
        several = f"several datasets {dataset}: {', '.join(path.name for path in found)}"
        what = several if found else f"no dataset {dataset}"
        raise UserError(f"there is {what} in {results}, where nnU-Net keeps trained models (nnUNet_results)")
    return found[0]


def ground_truth_folders(dataset_name: str) -> list[Path]:
    """Where the training cases' ground truth may lie, in the order to look: the raw dataset, nnU-Net's copy of it.

    Args:
        dataset_name: `DatasetXXX_Name`.
    """
    places: tuple[tuple[Kind, str], ...] = (("raw", "labelsTr"), ("preprocessed", "gt_segmentations"))
    folders = [(nnunet_folder(kind), below) for kind, below in places]
    return [folder / dataset_name / below for folder, below in folders if folder is not None]
