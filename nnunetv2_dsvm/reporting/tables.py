"""Tables of metrics: one model's, and several models side by side with their paired differences."""

import math
from collections.abc import Sequence
from typing import Any

from nnunetv2_dsvm.evaluation.comparison import OF_SINGLE_IMAGES, PairedDifference, compare, shown_interval, shown_p
from nnunetv2_dsvm.evaluation.paired_statistics import RESAMPLES
from nnunetv2_dsvm.evaluation.summary import Statistic, repeats_its_only_label
from nnunetv2_dsvm.reporting.papers import PapersNumbers
from nnunetv2_dsvm.reporting.results import MEAN, CaseValues, Results

METRIC_TITLES = {"HD95_mm": "HD95 (mm)", "ASSD_mm": "ASSD (mm)", "HD95_voxels": "HD95 (voxels)"}
LOWER_IS_BETTER = ("HD95_mm", "ASSD_mm", "HD95_voxels")
UNDEFINED = "–"
METRICS_BESIDE_EACH_OTHER = 6

Numbers = Results | PapersNumbers


def shown(value: float, metric: str = "Dice", sign: str = "") -> str:
    """A metric's value: distances with two decimals, anything else with three."""
    return UNDEFINED if math.isnan(value) else f"{value:{sign}.{_decimals(metric)}f}"


def shown_statistic(of: Statistic, metric: str) -> str:
    """`mean ± standard deviation`."""
    mean = shown(of.mean, metric)
    return mean if math.isnan(of.std) else f"{mean} ± {shown(of.std, metric)}"


def tables_of_one(model: Numbers) -> list[dict[str, Any]]:
    """Classes by metrics, in tables no wider than the page."""
    n = METRICS_BESIDE_EACH_OTHER
    parts = [model.metrics[i : i + n] for i in range(0, len(model.metrics), n)]
    return [
        {
            "heads": [metric_title(m) for m in part],
            "rows": [
                {"name": name, "is_mean": name == MEAN, "cells": [_cell(model, name, m) for m in part]}
                for name in _classes(model)
            ],
        }
        for part in parts
    ]


def comparison_of(titles: Sequence[str], models: Sequence[Numbers], pooled: bool = False) -> dict[str, Any]:
    """Metrics and classes by models, with the differences of the first model and each of the others.

    The differences are computed as `nnUNetv2_dsvm evaluate` does, over the cases that all models have.

    Args:
        pooled: the models' numbers are of all pixels together.
    """
    metrics = [m for m in models[0].metrics if all(m in model.metrics for model in models)]
    classes = _classes(models[0])
    # By name, as evaluate has them: the bootstrap draws cases by their places.
    common = sorted(name for name in models[0].per_case if all(name in model.per_case for model in models))
    values = {
        title: [_numbers(model.per_case[name], classes, metrics) for name in common]
        for title, model in zip(titles, models, strict=True)
    }
    differences = {(d.second, d.label, d.metric): d for d in compare(values, metrics) if d.first == titles[0]}
    several = len(titles) > 2
    groups = []
    for metric in metrics:
        rows = []
        for name in classes:
            cells = [_cell(model, name, metric) for model in models]
            for other in titles[1:]:
                cells += _difference_cells(differences.get((other, name, metric)), len(common), several)
            rows.append({"name": name, "is_mean": name == MEAN, "cells": cells})
        groups.append({"title": metric_title(metric), "rows": rows})
    return {
        "titles": titles,
        "pairs": [f"{titles[0]} − {other}" for other in titles[1:]],
        "heads": ["mean", "95 % interval", "p", *["p (Holm)"] * several],
        "groups": groups,
        "only_class": classes[0] if len(classes) == 1 else "",
        "note": _note(len(common), several, pooled),
    }


def metric_title(metric: str) -> str:
    """With an arrow that points to the better values."""
    return f"{METRIC_TITLES.get(metric, metric)} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def _note(cases: int, several: bool, pooled: bool) -> str:
    text = (
        f"Differences: the first model minus the other, paired by case, over the {cases} cases of all models, the "
        f"95 % confidence interval of their mean (percentiles of {RESAMPLES:,} bootstrap resamples of the cases; too "
        "narrow for fewer than about ten), and p of the two-sided Wilcoxon signed-rank test, not corrected for the "
        "number of metrics and classes."
    )
    if several:
        text += " p (Holm) is corrected for the number of pairs of models."
    return text + OF_SINGLE_IMAGES * pooled


def _classes(model: Numbers) -> list[str]:
    """Row by row, the mean over the classes last where there are several."""
    names = [name for name in model.summary if name != MEAN]
    return names if repeats_its_only_label(names) else [*names, MEAN]


def _cell(model: Numbers, name: str, metric: str) -> dict[str, Any]:
    found = model.summary.get(name, {}).get(metric, Statistic(math.nan, math.nan, 0))
    some = 0 < found.n < model.number_of_cases
    return {"text": shown_statistic(found, metric), "n": found.n if some else None}


def _difference_cells(d: PairedDifference | None, cases: int, several: bool) -> list[dict[str, Any]]:
    if d is None or not d.n:
        return [{"text": UNDEFINED, "n": None}] * (3 + several)
    texts = [
        shown(d.mean_difference, d.metric, "+"),
        shown_interval(d, _decimals(d.metric)),
        shown_p(d.p_value),
        *[shown_p(d.p_value_holm)] * several,
    ]
    return [{"text": text, "n": d.n if i == 0 and d.n < cases else None} for i, text in enumerate(texts)]


def _numbers(of_case: CaseValues, classes: Sequence[str], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """With NaN for what is not defined."""
    return {name: {m: of_case.get(name, {}).get(m, math.nan) for m in metrics} for name in classes if name != MEAN}


def _decimals(metric: str) -> int:
    return 2 if metric in LOWER_IS_BETTER else 3
