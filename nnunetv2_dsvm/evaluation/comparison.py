"""Models on the same cases: paired differences, and the Wilcoxon signed-rank test."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import wilcoxon

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.case_result import CaseResult
from nnunetv2_dsvm.evaluation.prediction_set import PredictionSet
from nnunetv2_dsvm.evaluation.protocols import Protocol
from nnunetv2_dsvm.evaluation.summary import OVER_LABELS, case_mean
from nnunetv2_dsvm.evaluation.tables import aligned, as_csv, number

_NOTE = (
    "difference = the second model minus the first, over the cases where both are defined; p_value: two-sided Wilcoxon "
    "signed-rank test of these differences, not corrected for the number of tests; null where all are 0. The label "
    f'"{OVER_LABELS}" is each case\'s mean over its labels, of those that are defined for both models.'
)
_OF_SINGLE_IMAGES = " The differences are of single images, while the protocol's own numbers pool all pixels."
COLUMNS = (
    "first", "second", "label", "metric", "n", "mean_difference", "std_difference", "median_difference", "p_value",
)  # fmt: skip


@dataclass(frozen=True)
class PairedDifference:
    """How `second` differs from `first` in one metric of one label; NaN where it is undefined."""

    first: str
    second: str
    label: str
    metric: str
    n: int
    mean_difference: float
    std_difference: float
    median_difference: float
    p_value: float


def check_comparable(sets: Sequence[PredictionSet]) -> None:
    """Before hours of measuring: do all models have the same cases and labels?

    Raises:
        UserError: names what differs.
    """
    first, *others = sets
    cases = {case.name for case in first.cases}
    for other in others:
        different = sorted(cases ^ {case.name for case in other.cases})
        if different:
            raise UserError(f"{first.model} and {other.model} cannot be compared, only one has: {', '.join(different)}")
        if other.labels != first.labels:
            labels = f"{first.labels.as_in_json()} and {other.labels.as_in_json()}"
            raise UserError(f"{first.model} and {other.model} cannot be compared, they have other labels: {labels}")


def compare(models: Mapping[str, Sequence[CaseResult]], protocol: Protocol) -> list[PairedDifference]:
    """Every pair of models, in the order given, by metric and label.

    Args:
        models: results by the models' names, of the same cases in the same order.
    """
    differences = []
    for one, another in combinations(models, 2):
        pairs = [(a.values, b.values) for a, b in zip(models[one], models[another], strict=True)]
        for metric in protocol.metrics:
            for label in (*pairs[0][0], OVER_LABELS):
                values = [_paired(a, b, label, metric) for a, b in pairs]
                differences.append(PairedDifference(one, another, label, metric, *_test(values)))
    return differences


def note(protocol: Protocol) -> str:
    """What a reader of the differences needs."""
    return _NOTE + (_OF_SINGLE_IMAGES if protocol.pooled else "")


def comparison_json(differences: Sequence[PairedDifference], models: Sequence[str], protocol: Protocol) -> str:
    """`comparison_<protocol>.json`."""
    paired = [{column: _plain(getattr(d, column)) for column in COLUMNS} for d in differences]
    content = {"protocol": protocol.name, "models": list(models), "note": note(protocol), "paired_differences": paired}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def comparison_csv(differences: Sequence[PairedDifference]) -> str:
    """`comparison_<protocol>.csv`, undefined values empty."""
    return as_csv([COLUMNS, *([_plain(getattr(d, column)) for column in COLUMNS] for d in differences)])


def comparison_table(differences: Sequence[PairedDifference]) -> str:
    """To read, for each pair of models: a row per label with the mean difference and p of each metric."""
    tables = []
    for one, another in dict.fromkeys((d.first, d.second) for d in differences):
        of_pair = [d for d in differences if (d.first, d.second) == (one, another)]
        cells = {(d.label, d.metric): _shown(d) for d in of_pair}
        labels, metrics = (list(dict.fromkeys(getattr(d, axis) for d in of_pair)) for axis in ("label", "metric"))
        rows = [["label", *metrics], *([label, *(cells[label, metric] for metric in metrics)] for label in labels)]
        tables.append(f"{another} minus {one}, mean difference (p)\n{aligned(rows)}")
    return "\n\n".join(tables)


def _paired(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]], label: str, metric: str
) -> float:
    if label != OVER_LABELS:
        return second[label][metric] - first[label][metric]
    both = [name for name in first if not math.isnan(first[name][metric] - second[name][metric])]
    means = [case_mean({name: values[name] for name in both}, metric) for values in (first, second)]
    return means[1] - means[0]


def _test(values: Sequence[float]) -> tuple[int, float, float, float, float]:
    """n, mean, standard deviation and median of the differences, p."""
    defined = np.array([value for value in values if not math.isnan(value)])
    n = len(defined)
    if not n:
        return 0, math.nan, math.nan, math.nan, math.nan
    std = float(defined.std(ddof=1)) if n > 1 else math.nan
    p = float(wilcoxon(defined).pvalue) if defined.any() else math.nan
    return n, float(defined.mean()), std, float(np.median(defined)), p


def _shown(d: PairedDifference) -> str:
    if math.isnan(d.mean_difference):
        return "–"
    return f"{d.mean_difference:+.4f} ({'–' if math.isnan(d.p_value) else f'{d.p_value:.2g}'})"


def _plain(value):
    return number(value) if isinstance(value, float) else value
