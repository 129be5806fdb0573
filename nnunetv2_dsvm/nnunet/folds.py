"""Which cases nnU-Net validates in a fold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json
from nnunetv2_dsvm.nnunet.folders import nnunet_folder
from nnunetv2_dsvm.nnunet.names import SPLITS_JSON

SEED = 12345  # of nnU-Net's random splits


def named_folds(asked: Sequence[str]) -> list[str]:
    """Folds as their folders name them, numbers ascending.

    Args:
        asked: numbers, leading zeros allowed, or `all` alone.

    Raises:
        UserError: something else.
    """
    wrong = [fold for fold in asked if fold != "all" and not fold.isdecimal()]
    if wrong:
        raise UserError(f"folds are numbers from 0 or all, got {', '.join(wrong)}")
    if "all" in asked and len(set(asked)) > 1:
        raise UserError("-f all is a model of its own, validated on its training cases: name it alone, or name numbers")
    return list(asked) if "all" in asked else [str(number) for number in sorted(map(int, asked))]


def folds_of_splits(dataset_name: str) -> list[str] | None:
    """The folds that splits_final.json holds; None where there is no such file.

    Raises:
        UserError: it is not what nnU-Net reads.
    """
    splits = _splits(dataset_name)
    return None if splits is None else [str(fold) for fold in range(len(splits))]


def validation_cases(
    dataset_name: str, fold: str, present: Sequence[str], training_cases: Sequence[Sequence[str]]
) -> list[str] | None:
    """The cases of a fold.

    They stand in splits_final.json; for a fold beyond it nnU-Net draws a random split of all training cases, and `all`
    is validated on all of them.

    Args:
        dataset_name: `DatasetXXX_Name`.
        fold: a number, or `all`.
        present: the cases that were predicted.
        training_cases: what may have been all cases when the fold was trained: some may have come or gone since. The
            first that explains `present` counts, or else the first.

    Returns:
        None where there is no splits_final.json to know them from.

    Raises:
        UserError: splits_final.json is not what nnU-Net reads.
    """
    if fold == "all":
        return _explaining(present, [list(cases) for cases in training_cases])
    splits = _splits(dataset_name)
    if splits is None:
        return None
    try:
        if int(fold) < len(splits):
            return list(splits[int(fold)]["val"])
    except (KeyError, TypeError) as error:
        text = f"splits_final.json of {dataset_name} has no validation cases of fold {fold}: {error!r}"
        raise UserError(text) from error
    return _explaining(present, [random_validation_cases(cases, int(fold)) for cases in training_cases])


def random_validation_cases(cases: Sequence[str], fold: int) -> list[str]:
    """The fifth that nnU-Net's trainer (`nnUNetTrainer.do_split`) draws for a fold beyond splits_final.json."""
    names = sorted(cases)
    drawn = np.random.RandomState(SEED + fold).choice(len(names), int(len(names) * 0.8), replace=False)
    of_training = set(drawn.tolist())
    return [name for i, name in enumerate(names) if i not in of_training]


def _explaining(present: Sequence[str], possible: Sequence[list[str]]) -> list[str]:
    return next((cases for cases in possible if set(cases) == set(present)), possible[0])


def _splits(dataset_name: str) -> list[Any] | None:
    places = [folder for kind in ("preprocessed", "raw") if (folder := nnunet_folder(kind)) is not None]
    files = [folder / dataset_name / SPLITS_JSON for folder in places]  # nnU-Net copies the raw folder's
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    splits = read_json(file)
    if not isinstance(splits, list):
        raise UserError(f'{file} holds no list of folds, each with its "train" and "val" cases, as nnU-Net writes it')
    return splits
