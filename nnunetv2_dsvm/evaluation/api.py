"""Measure predictions or a cross-validation and compare models, as `nnUNetv2_dsvm evaluate` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.errors import UserError, check_choice, check_several
from nnunetv2_dsvm.evaluation.case_result import CaseResult
from nnunetv2_dsvm.evaluation.comparison import (
    PairedDifference,
    check_comparable,
    compare,
    comparison_csv,
    comparison_json,
)
from nnunetv2_dsvm.evaluation.cross_validation import from_cross_validation
from nnunetv2_dsvm.evaluation.parallel import default_processes, measure_sets
from nnunetv2_dsvm.evaluation.prediction_set import PredictionSet, from_folders
from nnunetv2_dsvm.evaluation.protocols import PROTOCOLS, Protocol, ProtocolName
from nnunetv2_dsvm.evaluation.summary import Summary, summarise
from nnunetv2_dsvm.evaluation.tables import metrics_csv, metrics_json, write_all
from nnunetv2_dsvm.files.places_to_write import check_folder_place
from nnunetv2_dsvm.nnunet.folders import check_folder_variables

DEFAULT_TOLERANCE_MM = 1.0

_ELSEWHERE = "choose another folder with -o"


@dataclass(frozen=True)
class EvaluatedModel:
    """What was measured of one model.

    Attributes:
        name: the trainer's, or the last parts of the predictions' folder.
        results: of the cases, by their names ascending; an undefined value is NaN.
        summary: mean, standard deviation and number of cases by label (and `mean`, over the labels) and metric.
        metrics_json, metrics_csv: the files written.
    """

    name: str
    results: Sequence[CaseResult]
    summary: Summary
    metrics_json: Path
    metrics_csv: Path


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        protocol: by which it was.
        tolerance_mm: of the NSD, where the protocol has one.
        models: in the order in which they were named.
        differences: of each pair of models, the one named earlier minus the other; none of one model.
        files: all that were written; of several models, the last two are the comparison's.
    """

    protocol: Protocol
    tolerance_mm: float
    models: Sequence[EvaluatedModel]
    differences: Sequence[PairedDifference]
    files: Sequence[Path]


def evaluate(
    reference: Path | str,
    predictions: Sequence[Path | str],
    *,
    dataset_json: Path | str | None = None,
    plans: Path | str | None = None,
    protocol: ProtocolName = "nnunet",
    tolerance_mm: float | None = None,
    resample: bool = False,
    processes: int | None = None,
    output: Path | str | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Measures folders of predictions against one folder of references, and compares them if there are several.

    Writes `metrics_<protocol>.json` and `.csv` for each folder, and `comparison_<protocol>.json` and `.csv`.

    Args:
        reference: a label map for each case.
        predictions: folders with label maps of the same names, on the grids of their references.
        dataset_json, plans: by default those that nnU-Net's predictor writes beside its predictions.
        protocol: what is measured, and by whose rules.
        tolerance_mm: of the NSD, which the protocol nnunet has; 1 mm by default.
        resample: bring predictions on other grids onto their references' (nearest neighbour, background outside)
            instead of refusing them.
        processes: that measure at a time; by default as many as nnU-Net takes, at most the CPU's cores. Where they are
            several, a script that calls this needs `if __name__ == "__main__":`, for each imports it anew.
        output: where the files go, a folder below it for each of several models; by default beside the predictions,
            and the comparison beside the first.
        show_progress: a bar on standard error.

    Raises:
        UserError: a folder, dataset.json or a case is missing, files cannot be read or compared (all of them are
            named), or the metrics cannot be written. Nothing is written then.

    Examples:
        >>> from nnunetv2_dsvm import evaluate
        >>> evaluation = evaluate("reference", ["prediction"], tolerance_mm=2, processes=1)
        >>> evaluation.models[0].summary["organ"]["Dice"].mean
        1.0
        >>> [file.name for file in evaluation.files]
        ['metrics_nnunet.json', 'metrics_nnunet.csv']
    """
    how = _how(protocol, tolerance_mm, resample, processes, output, show_progress)
    check_several("predictions", predictions)
    folders = [Path(folder) for folder in predictions]
    sets, problems = from_folders(Path(reference), folders, dataset_json=_path(dataset_json), plans=_path(plans))
    return _evaluated(sets, problems, how)


def evaluate_cross_validation(
    dataset: str | int,
    trainers: Sequence[str],
    *,
    plans: str = "nnUNetPlans",
    configuration: str = "2d",
    folds: Sequence[str | int] | None = None,
    protocol: ProtocolName = "nnunet",
    tolerance_mm: float | None = None,
    resample: bool = False,
    processes: int | None = None,
    output: Path | str | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Measures trained models on their validation cases, each case by the fold that did not see it.

    The models are those below `nnUNet_results`; their files go where nnU-Net writes its own, into a fold's
    `validation` folder or the model's `crossval_results_folds_…`.

    Args:
        dataset: its number, or `DatasetXXX_Name`.
        trainers: one model each, compared if they are several.
        plans, configuration: of all models, by nnU-Net's names.
        folds: numbers, or `all`; by default those of splits_final.json, nnU-Net's five without it.
        protocol, tolerance_mm, resample, processes, output, show_progress: as those of `evaluate`.

    Raises:
        UserError: nnU-Net's variables are not set, something was not trained or validated, or as `evaluate`.

    Examples:
        >>> from nnunetv2_dsvm import evaluate_cross_validation
        >>> evaluation = evaluate_cross_validation("905", ["nnUNetTrainerDSVM"], folds=["0", "1"], processes=1)
        >>> [case.case.name for case in evaluation.models[0].results]
        ['case_0', 'case_1', 'case_2', 'case_3']
    """
    how = _how(protocol, tolerance_mm, resample, processes, output, show_progress)
    check_several("trainers", trainers)
    check_folder_variables()
    sets, problems = from_cross_validation(
        str(dataset), trainers, plans=plans, configuration=configuration, folds=folds
    )
    return _evaluated(sets, problems, how)


@dataclass(frozen=True)
class _How:
    """The arguments that both ways have, checked."""

    protocol: Protocol
    tolerance_mm: float
    resample: bool
    processes: int
    output: Path | None
    show_progress: bool


def _how(
    protocol: str,
    tolerance_mm: float | None,
    resample: bool,
    processes: int | None,
    output: Path | str | None,
    show_progress: bool,
) -> _How:
    check_choice("protocol", protocol, PROTOCOLS)
    chosen = PROTOCOLS[protocol]
    if tolerance_mm is not None:
        if "NSD" not in chosen.metrics:
            raise UserError(f"--tolerance-mm is that of the NSD, which the protocol {protocol} does not have")
        if not 0 <= tolerance_mm < float("inf"):
            raise UserError(f"the tolerance of the NSD must be a number of millimetres from 0, got {tolerance_mm}")
    if processes is not None and processes < 1:
        raise UserError(f"processes must be 1 or more, got {processes}")
    if output is not None:
        check_folder_place(Path(output), _ELSEWHERE)
    tolerance = DEFAULT_TOLERANCE_MM if tolerance_mm is None else tolerance_mm
    return _How(chosen, tolerance, resample, processes or default_processes(), _path(output), show_progress)


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _evaluated(sets: Sequence[PredictionSet], problems: Sequence[str], how: _How) -> Evaluation:
    protocol, tolerance_mm = how.protocol, how.tolerance_mm
    folders = _folders(sets, how.output)
    comparison = (how.output or folders[0]) / f"comparison_{protocol.name}.json"
    _check_places(folders, comparison if len(sets) > 1 else None, protocol)
    if not problems:
        check_comparable(sets)
    measured = measure_sets(
        sets,
        protocol=protocol.name,
        tolerance_mm=tolerance_mm,
        processes=how.processes,
        problems=problems,
        resample=how.resample,
        show_progress=how.show_progress,
    )
    contents, models = {}, []
    for s, folder, results in zip(sets, folders, measured, strict=True):
        summary = summarise(results, protocol, tolerance_mm)
        json_file, csv_file = (folder / f"metrics_{protocol.name}{ending}" for ending in (".json", ".csv"))
        contents[json_file] = metrics_json(results, summary, s.labels, protocol, tolerance_mm)
        contents[csv_file] = metrics_csv(results, summary, protocol)
        models.append(EvaluatedModel(s.model, results, summary, json_file, csv_file))
    differences: Sequence[PairedDifference] = ()
    if len(models) > 1:
        by_name = {model.name: [result.values for result in model.results] for model in models}
        differences = compare(by_name, protocol.metrics)
        contents[comparison] = comparison_json(differences, list(by_name), protocol)
        contents[comparison.with_suffix(".csv")] = comparison_csv(differences)
    write_all(contents)
    return Evaluation(protocol, tolerance_mm, models, differences, list(contents))


def _folders(sets: Sequence[PredictionSet], output: Path | None) -> list[Path]:
    """Where each model's metrics go."""
    if output is None:
        return [s.folder for s in sets]
    folders = [output / s.model.replace("/", "_") for s in sets] if len(sets) > 1 else [output]
    if len(set(folders)) < len(folders):
        raise UserError(f"two of the models would be written into one folder below {output}: name them one by one")
    return folders


def _check_places(folders: Sequence[Path], comparison: Path | None, protocol: Protocol) -> None:
    stems = [(folder, f"metrics_{protocol.name}") for folder in folders]
    if comparison is not None:
        stems.append((comparison.parent, comparison.stem))
    for folder, stem in stems:
        check_folder_place(folder, _ELSEWHERE, (f"{stem}.json", f"{stem}.csv"))
