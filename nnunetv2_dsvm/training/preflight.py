"""What nnU-Net reads only in its last minutes, or at random, looked for before the first epoch."""

import os
from collections.abc import Collection, Iterable, Sequence

from nnunetv2_dsvm.errors import UserError

_SHOWN = 10  # names in a message


def refuse_missing_ground_truth(cases: Iterable[str], dataset_folder: str, file_ending: str) -> None:
    """Raises UserError unless the final validation will find the ground truth of its cases, which it reads at its end.

    Args:
        cases: of the final validation.
        dataset_folder: below nnUNet_preprocessed.
        file_ending: as in dataset.json.
    """
    folder = os.path.join(dataset_folder, "gt_segmentations")
    files = {case: os.path.join(folder, case + file_ending) for case in cases}
    missing = sorted(case for case, file in files.items() if not os.path.isfile(file) or not os.path.getsize(file))
    if missing:
        dataset = os.path.basename(dataset_folder)
        raise UserError(
            f"The final validation compares with the ground truth in {folder}, where {_listed(missing)} "
            f"({len(missing)} of {len(files)} validation cases) {_is(missing)} missing or empty. Nothing was trained "
            f"or predicted. Copy the {file_ending} files there from labelsTr of {dataset} in nnUNet_raw, as "
            "nnUNetv2_preprocess does"
        )


def refuse_missing_cases(cases: Collection[str], there: Iterable[str], folder: str, splits_file: str) -> None:
    """Raises UserError unless every case of the fold is preprocessed; nnU-Net would stop when it draws the first other.

    Args:
        cases: of training and validation.
        there: the preprocessed ones.
        folder: where they lie.
        splits_file: which divides them into folds.
    """
    missing = sorted(set(cases) - set(there))
    if missing:
        raise UserError(
            f"{_listed(missing)} {_is(missing)} in this fold of {splits_file}, but not preprocessed in {folder}. "
            "Nothing was trained. Preprocess the dataset again with nnUNetv2_preprocess, or take "
            f"{'it' if len(missing) == 1 else 'them'} out of the splits"
        )


def refuse_missing_preprocessing(dataset_folder: str, folder: str, plans_name: str, configuration: str) -> None:
    """Raises UserError unless the configuration is preprocessed.

    Args:
        dataset_folder: below nnUNet_preprocessed.
        folder: of the configuration's preprocessed data, below it.
        plans_name: of the plans.
        configuration: in the plans.
    """
    if not os.path.isdir(folder) or not os.listdir(folder):
        raise UserError(
            f"There are no preprocessed data in {folder}. Nothing was trained. Run nnUNetv2_preprocess "
            f"-d {_number(dataset_folder)} -plans_name {plans_name} -c {configuration}"
        )


def refuse_missing_fingerprint(dataset_folder: str) -> None:
    """Raises UserError unless the dataset's folder below nnUNet_preprocessed has the fingerprint."""
    if not os.path.isfile(os.path.join(dataset_folder, "dataset_fingerprint.json")):
        raise UserError(
            f"There is no dataset_fingerprint.json in {dataset_folder}, which nnU-Net copies into its results. Nothing "
            f"was trained. Run nnUNetv2_extract_fingerprint -d {_number(dataset_folder)}"
        )


def _number(dataset_folder: str) -> int:
    return int(os.path.basename(dataset_folder)[len("Dataset") :].split("_")[0])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
