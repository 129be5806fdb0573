"""Models on the same cases: paired differences with their confidence intervals, and the Wilcoxon signed-rank test."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.paired_statistics import CONFIDENCE, RESAMPLES, holm, paired_statistics
from nnunetv2_dsvm.evaluation.prediction_set import PredictionSet
from nnunetv2_dsvm.evaluation.protocols import Protocol
from nnunetv2_dsvm.evaluation.summary import OVER_LABELS, case_mean, repeats_its_only_label
from nnunetv2_dsvm.evaluation.tables import as_csv, number
from nnunetv2_dsvm.files.text import aligned

Values = Mapping[str, Mapping[str, float]]  # of a case: label -> metric -> value, NaN where it is undefined

_NOTE = (
    "Difference: the first model minus the second, over the cases where both are defined. Interval: of its mean, "
    f"confidence {CONFIDENCE:.0%}, percentiles of {RESAMPLES:,} bootstrap resamples of the cases (too narrow for fewer "
    "than about ten). p: two-sided Wilcoxon signed-rank test of the differences, undefined where all are 0; by Holm "
    "corrected for the number of pairs of models, not for that of metrics and labels. The label "
    f'"{OVER_LABELS}" is each case\'s mean over its labels, of those that are defined for both models.'
)
OF_SINGLE_IMAGES = " The differences are of single images, while the protocol's own numbers pool all pixels."
COLUMNS = (
    "first", "second", "label", "metric", "n", "mean_difference", "ci95_low", "ci95_high", "std_difference",
    "median_difference", "p_value", "p_value_holm", "difference",
)  # fmt: skip


@dataclass(frozen=True)
class PairedDifference:
    """`first` minus `second` in one metric of one label; NaN where it is undefined."""

    first: str
    second: str
    label: str
    metric: str
    n: int
    mean_difference: float
    ci95_low: float
    ci95_high: float
    std_difference: float
    median_difference: float
    p_value: float
    p_value_holm: float = math.nan

    @property
    def difference(self) -> str:
        """What is subtracted from what, in words."""
        return f"{self.first} − {self.second}"


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


def compare(models: Mapping[str, Sequence[Values]], metrics: Sequence[str]) -> list[PairedDifference]:
    """Every pair of models, in the order given, by metric and label: the earlier model minus the later one.

    Args:
        models: each case's values by the models' names, of the same cases in the same order.
    """
    found, columns = [], []
    for one, another in combinations(models, 2):
        pairs = list(zip(models[one], models[another], strict=True))
        labels = list(dict.fromkeys(label for a, _ in pairs for label in a))
        for metric in metrics:
            for label in (*labels, OVER_LABELS):
                found.append((one, another, label, metric))
                columns.append([_paired(a, b, label, metric) for a, b in pairs])
    measured = zip(found, paired_statistics(columns), strict=True)
    differences = [PairedDifference(one, another, label, metric, *s) for (one, another, label, metric), s in measured]
    corrected: dict[int, float] = {}
    for of in dict.fromkeys((d.label, d.metric) for d in differences):
        which = [i for i, d in enumerate(differences) if (d.label, d.metric) == of]
        corrected.update(zip(which, holm([differences[i].p_value for i in which]), strict=True))
    return [replace(d, p_value_holm=corrected[i]) for i, d in enumerate(differences)]


def note(protocol: Protocol) -> str:
    """What a reader of the differences needs."""
    return _NOTE + (OF_SINGLE_IMAGES if protocol.pooled else "")


def comparison_json(differences: Sequence[PairedDifference], models: Sequence[str], protocol: Protocol) -> str:
    """`comparison_<protocol>.json`."""
    paired = [{column: _plain(getattr(d, column)) for column in COLUMNS} for d in differences]
    content = {"protocol": protocol.name, "models": list(models), "note": note(protocol), "paired_differences": paired}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def comparison_csv(differences: Sequence[PairedDifference]) -> str:
    """`comparison_<protocol>.csv`, undefined values empty."""
    return as_csv([COLUMNS, *([_plain(getattr(d, column)) for column in COLUMNS] for d in to_read(differences))])


def comparison_table(differences: Sequence[PairedDifference]) -> str:
    """To read, for each pair of models: a row per label and metric."""
    several = len({(d.first, d.second) for d in differences}) > 1
    tables = []
    for pair in dict.fromkeys(d.difference for d in differences):
        rows = [["label", "metric", "n", "mean difference", "95 % interval", "p", *["p (Holm)"] * several]]
        for d in (d for d in to_read(differences) if d.difference == pair):
            mean, p, corrected = _signed(d.mean_difference), shown_p(d.p_value), shown_p(d.p_value_holm)
            rows.append([d.label, d.metric, str(d.n), mean, shown_interval(d), p, *[corrected] * several])
        tables.append(f"{pair}\n{aligned(rows)}")
    return "\n\n".join(tables)


def to_read(differences: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Without those over the labels where there is but one label."""
    labels = {d.label for d in differences}
    return [d for d in differences if not (d.label == OVER_LABELS and repeats_its_only_label(labels))]


def shown_interval(d: PairedDifference, decimals: int = 4) -> str:
    """`[low, high]`, signed."""
    if math.isnan(d.ci95_low):
        return "–"
    return f"[{_signed(d.ci95_low, decimals)}, {_signed(d.ci95_high, decimals)}]"


def shown_p(p: float) -> str:
    """p with two digits."""
    return "–" if math.isnan(p) else f"{p:.2g}"


def _signed(value: float, decimals: int = 4) -> str:
    return "–" if math.isnan(value) else f"{value:+.{decimals}f}"


def _paired(first: Values, second: Values, label: str, metric: str) -> float:
    if label != OVER_LABELS:
        return first[label][metric] - second[label][metric]
    both = [name for name in first if not math.isnan(first[name][metric] - second[name][metric])]
    means = [case_mean({name: values[name] for name in both}, metric) for values in (first, second)]
    return means[0] - means[1]


def _plain(value):
    return number(value) if isinstance(value, float) else value
