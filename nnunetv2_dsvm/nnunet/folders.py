"""Where nnU-Net keeps a dataset: trained models and their checkpoints, raw images, ground truth; by its variables."""

import os
from pathlib import Path
from typing import Literal

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import visible_folders
from nnunetv2_dsvm.nnunet.folder_values import fault_of_value
from nnunetv2_dsvm.nnunet.names import GROUND_TRUTH, TRAINING_LABELS, dataset_name

Kind = Literal["raw", "preprocessed", "results"]
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def problem_of_value(name: str, value: str | None) -> str | None:
    """Why a folder variable's value cannot be meant and what to do, in one sentence; None where it can.

    Args:
        name: of the variable.
        value: as it is in the environment; None where the variable is not set.
    """
    fault = fault_of_value(name, value)
    return f"{name} {fault[0]}; {fault[1]}" if fault else None


def nnunet_folder(kind: Kind) -> Path | None:
    """The folder that nnU-Net's variable names, as nnU-Net takes it; None where it is not set or empty.

    Raises:
        UserError: the value cannot be meant.
    """
    name = f"nnUNet_{kind}"
    value = os.environ.get(name)
    if not value:
        return None
    if problem := problem_of_value(name, value):
        raise UserError(problem)
    return Path(value)


def check_folder_variables(*needed: Kind) -> None:
    """Before anything is read or written.

    Raises:
        UserError: a needed variable is not set, one of the three has a value that cannot be meant, or raw data are
            needed and have one folder with the preprocessed ones, in which nnU-Net cannot plan.
    """
    kinds: tuple[Kind, ...] = ("raw", "preprocessed", "results")
    check_usable_folders(*(kind for kind in kinds if kind in needed or os.environ.get(f"nnUNet_{kind}")))
    raw, preprocessed = nnunet_folder("raw"), nnunet_folder("preprocessed")
    if "raw" in needed and raw and preprocessed and one_folder(raw, preprocessed):
        raise UserError(f"nnUNet_raw and nnUNet_preprocessed are one folder, {raw}: set nnUNet_preprocessed to another")


def one_folder(a: Path, b: Path) -> bool:
    """Whether two paths name one folder, by links or in other words too; neither need exist."""
    return a.resolve() == b.resolve() or (os.path.exists(a) and os.path.exists(b) and a.samefile(b))


def unusable_folders(*kinds: Kind) -> str:
    """Which of these variables are not set, or have a value that cannot be meant, and what to do; empty for none."""
    values = {f"nnUNet_{kind}": os.environ.get(f"nnUNet_{kind}") for kind in kinds}
    problems = [problem_of_value(name, value) for name, value in values.items()]
    return "\n  ".join(problem for problem in problems if problem)


def check_usable_folders(*kinds: Kind) -> None:
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
    check_usable_folders("preprocessed")
    folder = Path(os.environ["nnUNet_preprocessed"])
    return _of_dataset(folder, dataset, "plans and preprocessed data (nnUNet_preprocessed)")


def _of_dataset(folder: Path, dataset: str, what_it_keeps: str) -> Path:
    if dataset.isdecimal():
        found = visible_folders(folder, dataset_name(int(dataset), ""))
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
    places: tuple[tuple[Kind, str], ...] = (("raw", TRAINING_LABELS), ("preprocessed", GROUND_TRUTH))
    folders = [(nnunet_folder(kind), below) for kind, below in places]
    return [folder / dataset_name / below for folder, below in folders if folder is not None]
