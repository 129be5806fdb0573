"""The names that nnU-Net gives to files and folders of datasets and of trained models."""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_dsvm.files.listing import visible_folders

# Of a fold; `CHECKPOINTS` in the order in which nnU-Net's --c takes them.
FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"
CHECKPOINTS = (FINAL, LATEST, BEST)
PLANS_JSON = "plans.json"  # of a trained model; a preprocessed dataset's has the plans' own name
DATASET_JSON = "dataset.json"  # of a raw and a preprocessed dataset, and of a trained model
SPLITS_JSON = "splits_final.json"  # of a preprocessed dataset; nnU-Net copies a raw one's there
FINGERPRINT_JSON = "dataset_fingerprint.json"  # of a preprocessed dataset
TRAINING_IMAGES, TRAINING_LABELS = "imagesTr", "labelsTr"  # of a raw dataset
GROUND_TRUTH = "gt_segmentations"  # of a preprocessed dataset: its copy of the training labels
# JSON files beside the plans in a preprocessed dataset, without their ending.
OTHER_FILES_OF_A_DATASET = ("dataset", "dataset_fingerprint", "splits_final")


def dataset_name(number: int, title: str) -> str:
    """`DatasetXXX_Title`."""
    return f"Dataset{number:03d}_{title}"


def model_name(trainer: str, plans: str, configuration: str) -> str:
    """`TRAINER__PLANS__CONFIGURATION`, the folder of a trained model below its dataset's."""
    return f"{trainer}__{plans}__{configuration}"


def names_a_model(folder: Path) -> bool:
    """Whether a folder is named as that of a trained model."""
    return folder.name.count("__") == 2


def fold_folder(model: Path, fold: str | int) -> Path:
    """Of a trained model's fold, a number or `all`."""
    return model / f"fold_{fold}"


def fold_folders(model: Path) -> list[Path]:
    """Those that are there."""
    return visible_folders(model, "fold_")


def folds_of_model(model: Path) -> list[str]:
    """The folds that have a folder, numbers first."""
    names = [path.name.removeprefix("fold_") for path in fold_folders(model)]
    return sorted(names, key=lambda name: (not name.isdigit(), name.zfill(4)))


def validation_folder(model: Path, fold: str | int) -> Path:
    """Where nnU-Net writes the predictions of a fold's validation cases."""
    return fold_folder(model, fold) / "validation"


def folder_of_metrics(model: Path, folds: Sequence[str]) -> Path:
    """Where metrics of these folds, in ascending order, are written: nnU-Net's own places."""
    if len(folds) == 1:
        return validation_folder(model, folds[0])
    return model / f"crossval_results_folds_{'_'.join(folds)}"
