"""The cross-validation of trained models: each case by the model of the fold that did not see it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.case_result import EvaluatedCase
from nnunetv2_dsvm.evaluation.prediction_set import PredictionSet, case_names, file_ending, reader
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.listing import visible_folders
from nnunetv2_dsvm.nnunet.folders import folder_of_models, ground_truth_folders
from nnunetv2_dsvm.nnunet.folds import folds_of_splits, named_folds, validation_cases
from nnunetv2_dsvm.nnunet.labels import read_labels
from nnunetv2_dsvm.nnunet.names import (
    DATASET_JSON,
    PLANS_JSON,
    folder_of_metrics,
    folds_of_model,
    model_name,
    names_a_model,
    validation_folder,
)
from nnunetv2_dsvm.nnunet.unfinished_folds import what_a_fold_lacks

NNUNETS_FOLDS = ("0", "1", "2", "3", "4")


def from_cross_validation(
    dataset: str, trainers: Sequence[str], *, plans: str, configuration: str, folds: Sequence[str] | None = None
) -> tuple[list[PredictionSet], list[str]]:
    """The validation predictions in nnU-Net's results folder.

    The references are those that nnU-Net takes: `labelsTr` of the raw dataset, else `gt_segmentations` of the
    preprocessed one. The cases are those that splits_final.json gives to the folds, or nnU-Net's random split to a fold
    beyond that file; without it, those that are there.

    Args:
        dataset: its number, or `DatasetXXX_Name`.
        folds: numbers, or `all`; by default those of splits_final.json, nnU-Net's five without it.

    Returns:
        A set for each trainer, and every missing or surplus file in words. Metrics of several folds are written into
        `crossval_results_folds_…`, where nnU-Net puts its own; those of one fold into its validation folder. nnU-Net
        empties the former when it finds the best configuration.

    Raises:
        UserError: a variable, the dataset, a model or the references are missing.
    """
    _refuse_repeated(trainers)
    folds = None if folds is None else named_folds(folds)
    _refuse_repeated(folds or ())
    parent = folder_of_models(dataset)
    folds = folds or folds_of_splits(parent.name) or NNUNETS_FOLDS
    models = {trainer: parent / model_name(trainer, plans, configuration) for trainer in trainers}
    _check_validated(models.values(), folds, dataset)
    references = _references(parent.name)
    sets, problems = [], []
    for trainer, model in models.items():
        content = read_json_object(model / DATASET_JSON)
        ending = file_ending(content)
        training_cases = _training_cases(parent.name, ending)
        cases: dict[str, EvaluatedCase] = {}
        for fold in folds:
            validation = validation_folder(model, fold)
            present = case_names(validation, ending)
            expected = validation_cases(parent.name, fold, present, training_cases)
            for case in present if expected is None else sorted({*present, *expected}):
                prediction, reference = validation / (case + ending), references / (case + ending)
                if case not in present:
                    problems.append(f"{prediction} is missing")
                elif expected is not None and case not in expected:
                    problems.append(
                        f"{prediction} is not of fold {fold} in splits_final.json, or nnU-Net's random one beyond it"
                    )
                elif not reference.is_file():
                    problems.append(f"{prediction} has no reference in {references}")
                elif case in cases:
                    problems.append(
                        f"{prediction} was predicted by another fold too: {cases[case].prediction}; measure the folds "
                        "one by one with -f"
                    )
                else:
                    cases[case] = EvaluatedCase(case, reference, prediction)
            if set(expected or ()) - set(present):
                problems.append(what_a_fold_lacks(model, fold, dataset))
        if not cases:
            raise UserError("\n  ".join([f"{model}: no validation prediction (*{ending}) to evaluate", *problems]))
        ordered = tuple(cases[case] for case in sorted(cases))
        reader_class = reader(content, model / PLANS_JSON, ordered[0].reference)
        sets.append(
            PredictionSet(trainer, folder_of_metrics(model, folds), ordered, read_labels(content), reader_class)
        )
    return sets, problems


def _refuse_repeated(names: Sequence[str]) -> None:
    repeated = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if repeated:
        raise UserError(f"named twice: {', '.join(repeated)}")


def _check_validated(models: Iterable[Path], folds: Sequence[str], dataset: str) -> None:
    problems = []
    for model in models:
        if not model.is_dir():
            there = [path.name for path in visible_folders(model.parent) if names_a_model(path)]
            problems.append(f"there is no trained model {model}; trained are: {', '.join(there) or 'none'}")
            continue
        validated = [fold for fold in folds_of_model(model) if validation_folder(model, fold).is_dir()]
        missing = [fold for fold in folds if fold not in validated]
        problems += [what_a_fold_lacks(model, fold, dataset) for fold in missing]
        if missing and validated:
            problems.append(f"{model.name} has a validation of fold {', '.join(validated)}: name them with -f")
    if problems:
        raise UserError("\n  ".join(["not everything was trained and validated:", *problems]))


def _references(name: str) -> Path:
    candidates = ground_truth_folders(name)
    folder = next((folder for folder in candidates if folder.is_dir()), None)
    if folder is None:
        expected = " or ".join(map(str, candidates)) or "nnUNet_raw or nnUNet_preprocessed to be set"
        raise UserError(f"no references of {name}: expected {expected}")
    return folder


def _training_cases(name: str, ending: str) -> list[list[str]]:
    """All cases of the dataset as nnU-Net has preprocessed it, and as they lie in its raw folder now."""
    return [case_names(folder, ending) for folder in reversed(ground_truth_folders(name)) if folder.is_dir()]
