"""Mean, standard deviation and number of cases, per label and over the labels."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from nnunetv2_dsvm.evaluation.case_result import CaseResult
from nnunetv2_dsvm.evaluation.confusion import Counts
from nnunetv2_dsvm.evaluation.protocols import Protocol

OVER_LABELS = "mean"


class Statistic(NamedTuple):
    """Mean and sample standard deviation of the `n` values that are defined; NaN where there are too few."""

    mean: float
    std: float
    n: int


Summary = dict[str, dict[str, Statistic]]


def summarise(results: Sequence[CaseResult], protocol: Protocol, tolerance_mm: float) -> Summary:
    """Statistics by label (and `mean`, over the labels) and metric.

    Averaging protocols: see `averages`.

    Pooling protocols: values of the counts of all cases together, without a deviation; n is the number of cases.
    """
    labels = list(results[0].values)
    if protocol.pooled:
        return _pooled(results, labels, protocol, tolerance_mm)
    return averages([result.values for result in results], labels, protocol.metrics)


def averages(
    cases: Sequence[Mapping[str, Mapping[str, float]]], labels: Sequence[str], metrics: Sequence[str]
) -> Summary:
    """A label's mean and deviation are over the cases.

    `mean` holds the mean of the labels' means (nnU-Net's foreground mean, but for a label that is never defined: here
    it is left out) and the deviation of the cases' own means over their labels.

    Args:
        cases: each case's values by label and metric, NaN where a metric is undefined.
    """
    summary = {label: {m: statistic(values[label][m] for values in cases) for m in metrics} for label in labels}
    summary[OVER_LABELS] = {}
    for metric in metrics:
        of_cases = statistic(case_mean(values, metric) for values in cases)
        mean = statistic(summary[label][metric].mean for label in labels).mean
        summary[OVER_LABELS][metric] = Statistic(mean, of_cases.std, of_cases.n)
    return summary


def statistic(values: Iterable[float]) -> Statistic:
    """Of the values that are not NaN."""
    defined = [value for value in values if not math.isnan(value)]
    n = len(defined)
    if not n:
        return Statistic(math.nan, math.nan, 0)
    mean = math.fsum(defined) / n
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in defined) / (n - 1)) if n > 1 else math.nan
    return Statistic(mean, std, n)


def case_mean(values: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """One case's mean over its labels that are defined."""
    return statistic(of_label[metric] for of_label in values.values()).mean


def repeats_its_only_label(labels: Collection[str]) -> bool:
    """Whether the mean over these labels (`mean` may be among them) says nothing new.

    JSON files keep it, so that a script finds `mean` whatever the number of labels; what people read leaves it out.
    """
    return len([label for label in labels if label != OVER_LABELS]) == 1


def _pooled(results: Sequence[CaseResult], labels: Sequence[str], protocol: Protocol, tolerance_mm: float) -> Summary:
    n = len(results)
    summary: Summary = {}
    for label in labels:
        counts = Counts(*(sum(of_case) for of_case in zip(*(r.counts[label] for r in results), strict=True)))
        values = dict(zip(protocol.metrics, protocol.measure(counts, None, tolerance_mm), strict=True))
        summary[label] = {metric: Statistic(value, math.nan, n) for metric, value in values.items()}
    summary[OVER_LABELS] = {
        metric: Statistic(statistic(summary[label][metric].mean for label in labels).mean, math.nan, n)
        for metric in protocol.metrics
    }
    return summary
