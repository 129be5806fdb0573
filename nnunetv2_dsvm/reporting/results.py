"""The metrics of a model's validation: those of `nnUNetv2_dsvm evaluate`, or else nnU-Net's own Dice and IoU."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.summary import (
    OVER_LABELS,
    Statistic,
    Summary,
    averages,
    repeats_its_only_label,
    statistic,
)
from nnunetv2_dsvm.evaluation.tables import read_metrics
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.nnunet.unfinished_folds import what_a_fold_lacks

AGAIN = "Run the validation, or nnUNetv2_dsvm evaluate, again"
EVALUATED = "metrics_nnunet.json"
SUMMARY = "summary.json"
MEAN = OVER_LABELS  # the row over all classes

CaseValues = Mapping[str, Mapping[str, float]]  # class -> metric, NaN where it is not defined


@dataclass(frozen=True)
class ValidationCase:
    """One validation case: its files, and each class's metrics (NaN where a metric is not defined)."""

    name: str
    fold: str | None
    reference: Path | None
    prediction: Path | None
    values: CaseValues

    @property
    def mean_dice(self) -> float:
        """Mean over the classes whose Dice is defined; NaN where there is none."""
        return statistic(values.get("Dice", math.nan) for values in self.values.values()).mean


@dataclass(frozen=True)
class Results:
    """A model's validation over the folds of the report.

    Args:
        summary: class, or `MEAN`, -> metric -> statistic over the cases.
        notes: sentences that a reader of the numbers needs.
        tolerance_mm: of the NSD, where that was measured.
    """

    metrics: tuple[str, ...]
    cases: tuple[ValidationCase, ...]
    summary: Mapping[str, Mapping[str, Statistic]]
    notes: tuple[str, ...]
    tolerance_mm: float | None = None

    @property
    def number_of_cases(self) -> int:
        return len(self.cases)

    @property
    def has_one_class(self) -> bool:
        return repeats_its_only_label(self.summary)

    @property
    def per_case(self) -> dict[str, CaseValues]:
        """Each case's metrics by its name."""
        return {case.name: case.values for case in self.cases}


def read_results(model: TrainedModel, folds: Sequence[str]) -> Results:
    """Read the metrics of the folds' validation cases.

    The cross-validation's own file is taken if there is one for these folds, then the folds' files, then nnU-Net's.

    Raises:
        UserError: a fold has not been validated, or a file cannot be read.
    """
    per_fold = [model.validation_folder(fold) for fold in folds]
    for folders in ([model.metrics_folder(folds)], per_fold):
        if all((folder / EVALUATED).is_file() for folder in folders):
            with explaining_other_form(
                f"{folders[0] / EVALUATED}, or that of another fold,", "run nnUNetv2_dsvm evaluate again"
            ):
                return _evaluated(model, folds, [folder / EVALUATED for folder in folders])
    lacking = [fold for fold, folder in zip(folds, per_fold, strict=True) if not (folder / SUMMARY).is_file()]
    if lacking:
        sentences = [what_a_fold_lacks(model.folder, fold, model.dataset) for fold in lacking]
        raise UserError("\n  ".join(["not every fold is validated; choose others with -f, or:", *sentences]))
    with explaining_other_form(
        f"{per_fold[0] / SUMMARY}, or that of another fold,", "repeat the validation, nnUNetv2_train with --val"
    ):
        return _nnunets_own(model, folds, [folder / SUMMARY for folder in per_fold])


@contextmanager
def explaining_other_form(file: Path | str, advice: str) -> Iterator[None]:
    """Makes a UserError of what goes wrong where a JSON file lacks an entry or holds one of another type."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} does not hold what was expected ({error!r}): {advice}") from error


def _evaluated(model: TrainedModel, folds: Sequence[str], files: Sequence[Path]) -> Results:
    contents = [read_metrics(file, AGAIN) for file in files]
    metrics = tuple(contents[0]["metrics"])
    cases, outdated = [], False
    for file, content in zip(files, contents, strict=True):
        for entry in content["per_case"]:
            values = {name: {m: or_nan(of.get(m)) for m in metrics} for name, of in entry["values"].items()}
            name = entry["case"].removesuffix(model.dataset_json["file_ending"])
            cases.append(_case(model, folds, file.parent, name, entry["reference"], values))
            outdated |= is_newer(cases[-1].prediction, file)
    _check_each_once(model, cases)
    notes = [f"Metrics by nnUNetv2_dsvm evaluate, protocol {contents[0]['protocol']}."]
    tolerance = None
    if "NSD" in metrics:
        tolerances = {f"fold {fold}": content["tolerance_mm"] for fold, content in zip(folds, contents, strict=False)}
        check_same_tolerance(tolerances)
        tolerance = contents[0]["tolerance_mm"]
        notes.append(f"NSD: normalised surface Dice at {tolerance:g} mm.")
    notes.append(f"Empty masks: {contents[0]['rule_for_empty_masks'].rstrip('.')}.")
    if model.plans["image_reader_writer"] == "NaturalImage2DIO":
        notes.append("The pictures have no spacing: a pixel counts as 1 mm.")
    resampled = [name for content in contents for name in content.get("resampled_onto_the_reference", ())]
    if resampled:
        notes.append(f"Resampled onto their ground truth's grid before they were measured: {', '.join(resampled)}.")
    lost = sum(case.prediction is None for case in cases)
    if lost:
        notes.append(f"The predictions of {lost} of {len(cases)} measured cases are no longer there.")
    if outdated:
        notes.append("Some predictions are newer than these metrics: run nnUNetv2_dsvm evaluate again.")
    if len(contents) > 1:
        return Results(metrics, tuple(cases), _summary(cases, list(model.labels), metrics), tuple(notes), tolerance)
    return Results(metrics, tuple(cases), summary_in_file(contents[0]), tuple(notes), tolerance)


def check_same_tolerance(tolerances_mm: Mapping[str, float]) -> None:
    """
    Args:
        tolerances_mm: of the NSD, by what was measured with it.

    Raises:
        UserError: they differ, so that the numbers cannot stand beside each other.
    """
    if len(set(tolerances_mm.values())) > 1:
        different = ", ".join(f"{of} at {tolerance:g} mm" for of, tolerance in tolerances_mm.items())
        raise UserError(f"NSD was measured for {different}: run nnUNetv2_dsvm evaluate again with one --tolerance-mm")


def _nnunets_own(model: TrainedModel, folds: Sequence[str], files: Sequence[Path]) -> Results:
    metrics, cases = ("Dice", "IoU"), []
    for file in files:
        for entry in read_json_object(file, AGAIN)["metric_per_case"]:
            by_value = {_label_values(key): of for key, of in entry["metrics"].items()}
            values = {
                name: {m: or_nan(by_value[value].get(m)) for m in metrics}
                for name, value in model.labels.items()
                if value in by_value
            }
            name = Path(entry["prediction_file"]).name.removesuffix(model.dataset_json["file_ending"])
            cases.append(_case(model, folds, file.parent, name, entry["reference_file"], values))
    _check_each_once(model, cases)
    notes = (
        "Metrics by nnU-Net (summary.json), which compares voxels wherever they lie; a class that is in neither the "
        "ground truth nor the prediction of a case does not count there.",
        "nnUNetv2_dsvm evaluate adds distances, sensitivity and more; make the report again after it.",
    )
    return Results(metrics, tuple(cases), _summary(cases, list(model.labels), metrics), notes)


def _check_each_once(model: TrainedModel, cases: Sequence[ValidationCase]) -> None:
    """A case of two folds would count twice."""
    repeated = [name for name, n in Counter(case.name for case in cases).items() if n > 1]
    if repeated:
        raise UserError(
            f"several of the chosen folds of {model.folder} validated {', '.join(repeated)}, as folds beyond those of "
            "splits_final.json do: report on them one by one with -f"
        )


def _case(
    model: TrainedModel, folds: Sequence[str], folder: Path, name: str, reference: str, values: dict[str, Any]
) -> ValidationCase:
    """A case with its prediction: in a fold's validation folder, or else in the folder of the metrics."""
    file_name = name + model.dataset_json["file_ending"]
    in_folds = {fold: model.validation_folder(fold) / file_name for fold in folds}
    fold = next((fold for fold, path in in_folds.items() if path.is_file() and path.parent == folder), None) or next(
        (fold for fold, path in in_folds.items() if path.is_file()), None
    )
    prediction = in_folds[fold] if fold is not None else folder / file_name
    found = prediction if prediction.is_file() else None
    return ValidationCase(name, fold, model.reference_file(name, reference), found, values)


def _summary(cases: Sequence[ValidationCase], labels: Sequence[str], metrics: Sequence[str]) -> Summary:
    """Over the cases where a metric is defined, computed as `nnUNetv2_dsvm evaluate` does."""
    values = [
        {name: {m: case.values.get(name, {}).get(m, math.nan) for m in metrics} for name in labels} for case in cases
    ]
    return averages(values, labels, metrics)


def summary_in_file(content: Mapping[str, Any]) -> Summary:
    """The summary in a file of `nnUNetv2_dsvm evaluate`."""
    return {
        name: {m: Statistic(or_nan(s["mean"]), or_nan(s["std"]), s["n"]) for m, s in of.items()}
        for name, of in content["summary"].items()
    }


def is_newer(prediction: Path | None, metrics: Path) -> bool:
    """Whether a prediction that is there was written after it was measured."""
    return prediction is not None and prediction.is_file() and prediction.stat().st_mtime > metrics.stat().st_mtime


def _label_values(key: str) -> tuple[int, ...]:
    """nnU-Net writes a label as `1` and a region as `(1, 2)`."""
    return tuple(int(part) for part in key.strip("()").split(",") if part.strip())


def or_nan(value: float | None) -> float:
    """A number of a JSON file, where null is undefined."""
    return math.nan if value is None else float(value)
