"""What nnU-Net reads only in its last minutes, or at random, looked for before the first epoch."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import visible
from nnunetv2_dsvm.nnunet.names import FINGERPRINT_JSON, GROUND_TRUTH, SPLITS_JSON

_SHOWN = 10  # names in a message


def check_preprocessing(trainer: nnUNetTrainer) -> None:
    """Raises UserError unless the trainer's configuration is preprocessed."""
    folder = trainer.preprocessed_dataset_folder
    if not visible(Path(folder)):
        raise UserError(
            f"There are no preprocessed data in {folder}. Nothing was trained. Run nnUNetv2_preprocess -d "
            f"{_number(trainer)} -plans_name {trainer.plans_manager.plans_name} -c {trainer.configuration_name}"
        )


def check_fingerprint(trainer: nnUNetTrainer) -> None:
    """Raises UserError unless the dataset has the fingerprint that nnU-Net copies into its results."""
    folder = trainer.preprocessed_dataset_folder_base
    if not os.path.isfile(os.path.join(folder, FINGERPRINT_JSON)):
        raise UserError(
            f"There is no {FINGERPRINT_JSON} in {folder}, which nnU-Net copies into its results. Nothing was "
            f"trained. Run nnUNetv2_extract_fingerprint -d {_number(trainer)}"
        )


def check_cases(trainer: nnUNetTrainer, datasets: Sequence[nnUNetBaseDataset]) -> None:
    """Raises UserError unless every case is preprocessed: nnU-Net would stop when it draws the first that is not.

    Args:
        trainer: of the fold.
        datasets: its training and validation cases.
    """
    folder = trainer.preprocessed_dataset_folder
    cases = {case for dataset in datasets for case in dataset.identifiers}
    missing = sorted(cases - set(trainer.dataset_class.get_identifiers(folder)))
    if missing:
        splits_file = os.path.join(trainer.preprocessed_dataset_folder_base, SPLITS_JSON)
        raise UserError(
            f"{_listed(missing)} {_is(missing)} in this fold of {splits_file}, but not preprocessed in {folder}. "
            "Nothing was trained. Preprocess the dataset again with nnUNetv2_preprocess, or take "
            f"{'it' if len(missing) == 1 else 'them'} out of the splits"
        )


def check_ground_truth(trainer: nnUNetTrainer, cases: Iterable[str]) -> None:
    """Raises UserError unless the final validation will find the ground truth of its cases, which it reads at its end.

    Args:
        trainer: of the fold.
        cases: of the validation.
    """
    ending, dataset_folder = trainer.dataset_json["file_ending"], trainer.preprocessed_dataset_folder_base
    folder = os.path.join(dataset_folder, GROUND_TRUTH)
    files = {case: os.path.join(folder, case + ending) for case in cases}
    missing = sorted(case for case, file in files.items() if not os.path.isfile(file) or not os.path.getsize(file))
    if missing:
        raise UserError(
            f"The final validation compares with the ground truth in {folder}, where {_listed(missing)} "
            f"({len(missing)} of {len(files)} validation cases) {_is(missing)} missing or empty. Nothing was trained "
            f"or predicted. Copy the {ending} files there from labelsTr of {os.path.basename(dataset_folder)} in "
            "nnUNet_raw, as nnUNetv2_preprocess does"
        )


def _number(trainer: nnUNetTrainer) -> int:
    return int(trainer.plans_manager.dataset_name[len("Dataset") :].split("_")[0])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
