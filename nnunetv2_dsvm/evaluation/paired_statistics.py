"""Statistics of paired differences: confidence interval of the mean, Wilcoxon's p, Holm's correction."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import wilcoxon

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0  # an interval is the same at every run, and in evaluate and report
AT_ONCE = 4_000_000  # drawn cases held in memory


class PairedStatistics(NamedTuple):
    """Of the differences that are defined; NaN where there are too few."""

    n: int
    mean: float
    ci_low: float
    ci_high: float
    std: float
    median: float
    p_value: float


def paired_statistics(columns: Sequence[Sequence[float]]) -> list[PairedStatistics]:
    """Statistics of several sets of differences, each over the cases; NaN marks a case that does not count.

    Sets with the same number of defined cases share their bootstrap resamples.
    """
    defined = [np.array([value for value in column if not math.isnan(value)]) for column in columns]
    intervals: dict[int, tuple[float, float]] = {}
    for n in {len(values) for values in defined}:
        which = [i for i, values in enumerate(defined) if len(values) == n]
        low, high = _intervals(np.stack([defined[i] for i in which], axis=1))
        intervals.update(zip(which, zip(low, high, strict=True), strict=True))
    return [_statistics(values, *intervals[i]) for i, values in enumerate(defined)]


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for their number by Holm's step-down procedure (Holm 1979); NaN counts as no test and stays."""
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def _statistics(values: np.ndarray, low: float, high: float) -> PairedStatistics:
    n = len(values)
    if not n:
        return PairedStatistics(0, *[math.nan] * 6)
    std = float(values.std(ddof=1)) if n > 1 else math.nan
    p = float(wilcoxon(values).pvalue) if values.any() else math.nan
    return PairedStatistics(n, float(values.mean()), float(low), float(high), std, float(np.median(values)), p)


def _intervals(values: np.ndarray) -> np.ndarray:
    """Percentile bootstrap of the mean of each column of `values`, `(cases, columns)`: `(2, columns)`."""
    n, columns = values.shape
    if n < 2:
        return np.full((2, columns), math.nan)
    generator = np.random.default_rng(SEED)
    size = max(1, AT_ONCE // n)
    means = []
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        how_often = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means.append(how_often @ values / n)
    outside = (1 - CONFIDENCE) / 2
    return np.quantile(np.concatenate(means), [outside, 1 - outside], axis=0)
