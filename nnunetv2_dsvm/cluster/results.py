"""The end of a cross-validation: one table of all models and their differences, and a report of each data set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy.stats import bootstrap

from nnunetv2_dsvm.cluster.progress import SUMMARY
from nnunetv2_dsvm.cluster.request import Model
from nnunetv2_dsvm.cluster.run_folder import RunFolder, model_folder
from nnunetv2_dsvm.cluster.tables import DIFFERENCES, Differences, Row, as_files, as_sections
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.comparison import compare
from nnunetv2_dsvm.evaluation.paired_statistics import CONFIDENCE, RESAMPLES, SEED
from nnunetv2_dsvm.evaluation.summary import OVER_LABELS, case_mean
from nnunetv2_dsvm.evaluation.tables import write_all
from nnunetv2_dsvm.reporting.api import report
from nnunetv2_dsvm.reporting.curves import Curves, read_curves
from nnunetv2_dsvm.reporting.results import Results, read_results

Values = Mapping[str, Mapping[str, float]]
_AT_ONCE = 4_000_000  # values held in memory


@dataclass(frozen=True)
class _Trained:
    """A model all of whose folds are finished."""

    model: Model
    results: Results
    curves: Curves


def write_results(run: RunFolder) -> None:
    """Writes results.md, results.csv and differences.csv into the run's folder, and a report of each data set and seed.

    Models some of whose folds are not finished are left out. Without a pair to compare no differences.csv is left.

    Raises:
        UserError: no model is complete, or a file cannot be read or written.
    """
    request = run.request
    trained = [t for group in request.groups() for model in request.models(*group) if (t := _trained(run, model))]
    if not trained:
        raise UserError("there is nothing to report on: no model has all of its folds finished")
    rows: list[Row] = []
    differences: dict[str, Differences] = {}
    for dataset in request.datasets:
        of_dataset = [t for t in trained if t.model.dataset == dataset]
        models = {title: same for title, same in _by_title(of_dataset).items() if same}
        values = {title: _mean_over_seeds(same) for title, same in models.items()}
        rows += [_row(run, title, same, values[title]) for title, same in models.items()]
        cases = {frozenset(of_cases) for of_cases in values.values()}
        if len(values) > 1 and len(cases) == 1:  # else they were validated on other cases
            in_order = {title: [of[name] for name in sorted(of)] for title, of in values.items()}
            found = compare(in_order, ["Dice"])
            differences[dataset] = [d for d in found if d.label == OVER_LABELS]
    write_all({run.path / name: text for name, text in as_files(rows, differences).items()})
    if not differences:
        (run.path / DIFFERENCES).unlink(missing_ok=True)  # of another comparison, or of models that were complete
    for dataset, seed in request.groups():
        folders = [model_folder(t.model).folder for t in trained if (t.model.dataset, t.model.seed) == (dataset, seed)]
        if folders:
            sections = as_sections([row for row in rows if row.dataset == dataset], differences.get(dataset, ()))
            report(folders, run.report(dataset, seed), folds=request.folds, tables=sections)


def _trained(run: RunFolder, model: Model) -> _Trained | None:
    folder = model_folder(model)
    if not all((folder.validation_folder(fold) / SUMMARY).is_file() for fold in run.request.folds):
        return None
    return _Trained(model, read_results(folder, run.request.folds), read_curves(folder, run.request.folds))


def _by_title(trained: Sequence[_Trained]) -> dict[str, list[_Trained]]:
    """The same model of all seeds, by its name: the trainer's, with plans and configuration where these differ."""
    several = [len({getattr(t.model, name) for t in trained}) > 1 for name in ("plans", "configuration")]
    found: dict[str, list[_Trained]] = {}
    for t in trained:
        parts = [t.model.trainer, *[p for p, is_said in zip(t.model[2:4], several, strict=True) if is_said]]
        found.setdefault(", ".join(parts), []).append(t)
    return found


def _mean_over_seeds(same: Sequence[_Trained]) -> dict[str, Values]:
    """Each case's Dice by label, averaged over the seeds where it is defined for all of them."""
    cases = {case.name: case.values for case in same[0].results.cases}
    if len(same) == 1:
        return {name: {label: {"Dice": of["Dice"]} for label, of in values.items()} for name, values in cases.items()}
    of_seeds = [t.results.per_case for t in same]
    return {
        name: {label: {"Dice": fmean(of[name][label]["Dice"] for of in of_seeds)} for label in values}
        for name, values in cases.items()
        if all(name in of for of in of_seeds)
    }


def _row(run: RunFolder, title: str, same: Sequence[_Trained], values: Mapping[str, Values]) -> Row:
    low, high = _interval([[of_label["Dice"] for of_label in of_case.values()] for of_case in values.values()])
    means = [t.results.summary[OVER_LABELS]["Dice"].mean for t in same]
    seconds = [sum(sum(of_fold) for of_fold in t.curves.epoch_seconds.values()) for t in same]
    epochs = {len(history.get("train_losses", ())) for t in same for history in t.curves.histories.values()}
    memory = [mib for t in same if (mib := _gpu_memory_mib(run, t.model)) is not None]
    model = same[0].model
    return Row(
        title,
        model.dataset,
        model.trainer,
        model.plans,
        model.configuration,
        seeds=len(same),
        folds=len(run.request.folds),
        epochs=epochs.pop() if len(epochs) == 1 else None,
        cases=sum(not math.isnan(case_mean(of_case, "Dice")) for of_case in values.values()),
        dice=fmean(means),
        ci95_low=low,
        ci95_high=high,
        std_over_seeds=stdev(means) if len(means) > 1 else math.nan,
        gpu_memory_gib=max(memory) / 1024 if memory else math.nan,
        hours=fmean(seconds) / 3600 if any(seconds) else math.nan,
        parameters=same[0].curves.parameters,
    )


def _interval(dice: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Percentile bootstrap over the cases of nnU-Net's foreground mean, that of the labels' means.

    Args:
        dice: of each case by label, NaN where a label is neither there nor predicted.
    """
    values = np.array(dice)
    defined, filled = ~np.isnan(values), np.nan_to_num(values)
    if len(values) < 2 or not defined.any():
        return math.nan, math.nan

    def foreground_mean(drawn: np.ndarray, axis: int) -> np.ndarray:  # axis: -1, before the labels'
        sums, numbers = (np.take(of, drawn, axis=0).sum(axis=axis - 1) for of in (filled, defined))
        means = np.divide(sums, numbers, out=np.zeros(sums.shape), where=numbers > 0)
        return means.sum(axis=-1) / np.maximum((numbers > 0).sum(axis=-1), 1)

    cases = (np.arange(len(values)),)
    found = bootstrap(
        cases, foreground_mean, vectorized=True, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
        method="percentile", batch=max(1, _AT_ONCE // values.size), random_state=SEED,
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _gpu_memory_mib(run: RunFolder, model: Model) -> float | None:
    states = [run.state(step.name) for step in run.steps.values() if step.kind == "train" and step.model == model]
    known = [state.gpu_memory_mib for state in states if state is not None and state.gpu_memory_mib is not None]
    return max(known) if known else None
