"""Where nnU-Net keeps a dataset: trained models and their checkpoints, raw images, ground truth; by its variables."""

import os
import re
from pathlib import Path
from typing import Literal

from nnunetv2_dsvm.errors import UserError

Kind = Literal["raw", "preprocessed", "results"]
# Of a fold, in the order in which nnU-Net's --c takes them.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
# JSON files beside the plans in a preprocessed dataset, without their ending.
OTHER_FILES_OF_A_DATASET = ("dataset", "dataset_fingerprint", "splits_final")


def nnunet_folder(kind: Kind) -> Path | None:
    """The folder that nnU-Net's variable names; None where it is not set."""
    value = os.environ.get(f"nnUNet_{kind}", "").strip()
    return Path(value) if value else None


def unusable_folders(*kinds: Kind) -> str:
    """Which of nnU-Net's variables are not set, or name what cannot be meant as a folder; empty where all can be used.

    nnU-Net takes their values as they are: `"/data/results"` with its quotes, or nothing at all, would become folders
    below the present one.
    """
    whys = {f"nnUNet_{kind}": _why_no_folder(os.environ.get(f"nnUNet_{kind}", "")) for kind in kinds}
    problems = [f"{variable} {why}" for variable, why in whys.items() if why]
    advice = " ".join(f"{variable}=/path/to/a/folder" for variable, why in whys.items() if why)
    return f"{'; '.join(problems)}. It has to name a folder: export {advice}" if problems else ""


def _why_no_folder(value: str) -> str:
    """What is wrong with a variable's value; empty for one that can be meant."""
    if not value.strip():
        return "is not set"
    if value != value.strip():
        return f"is {value!r}, with blanks or a line's end around it"
    if value[0] in "\"'" or value[-1] in "\"'":
        return f"is {value}, with its quotes, which whatever set it did not take away"
    if value.startswith("~") or re.search(r"\$[A-Za-z_{]|%\w+%", value):
        return f"is {value}, which no shell has expanded"
    if os.name != "nt" and re.match(r"[A-Za-z]:[\\/]", value):
        return f"is {value}, a folder of Windows"
    return ""


def refuse_unusable_folders(*kinds: Kind) -> None:
    """Raises UserError unless nnU-Net's variables are set to what can be meant as folders."""
    if problems := unusable_folders(*kinds):
        raise UserError(problems)


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
    return _of_dataset(results, dataset, "trained models (nnUNet_results)")


def preprocessed_folder(dataset: str) -> Path:
    """A dataset's folder of plans and preprocessed data, `nnUNet_preprocessed/DatasetXXX_Name`.

    Args:
        dataset: its number, or its whole name.

    Raises:
        UserError: nnUNet_preprocessed cannot be used, or there is no such dataset, or more than one.
    """
    refuse_unusable_folders("preprocessed")
    folder = Path(os.environ["nnUNet_preprocessed"])
    return _of_dataset(folder, dataset, "plans and preprocessed data (nnUNet_preprocessed)")


def _of_dataset(folder: Path, dataset: str, what_it_keeps: str) -> Path:
    if dataset.isdecimal():
        found = sorted(path for path in folder.glob(f"Dataset{int(dataset):03d}_*") if path.is_dir())
    else:
        found = [folder / dataset] if dataset and (folder / dataset).is_dir() else []
    if len(found) != 1:
        several = f"several datasets {dataset}: {', '.join(path.name for path in found)}"
        what = several if found else f"no dataset {dataset}"
        raise UserError(f"there is {what} in {folder}, where nnU-Net keeps {what_it_keeps}")
    return found[0]


def ground_truth_folders(dataset_name: str) -> list[Path]:
    """Where the training cases' ground truth may lie, in the order to look: the raw dataset, nnU-Net's copy of it.

    Args:
        dataset_name: `DatasetXXX_Name`.
    """
    places: tuple[tuple[Kind, str], ...] = (("raw", "labelsTr"), ("preprocessed", "gt_segmentations"))
    folders = [(nnunet_folder(kind), below) for kind, below in places]
    return [folder / dataset_name / below for folder, below in folders if folder is not None]
