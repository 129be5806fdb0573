"""Statistics of paired differences: mean and effect size with confidence intervals, Wilcoxon's p, Holm's correction."""

import math
from collections.abc import Callable, Iterator, Sequence
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


class EffectSize(NamedTuple):
    """Cohen's d of paired differences, without unit: their mean over their standard deviation."""

    d: float
    ci_low: float
    ci_high: float


def paired_statistics(columns: Sequence[Sequence[float]]) -> list[PairedStatistics]:
    """Statistics of several sets of differences, each over the cases; NaN marks a case that does not count.

    Sets with the same number of defined cases share their bootstrap resamples.
    """
    defined = _defined(columns)
    return [_statistics(values, *limits) for values, limits in zip(defined, _by_number(defined, _means), strict=True)]


def effect_sizes(columns: Sequence[Sequence[float]]) -> list[EffectSize]:
    """Effect sizes of the same sets as in `paired_statistics`, their intervals from the same resamples.

    Resamples without spread, which few cases have by chance, have no effect size and do not count.
    """
    defined, found = _defined(columns), []
    for values, limits in zip(defined, _by_number(defined, _effects), strict=True):
        if len(values) > 1 and np.ptp(values) > 0:  # rounding gives equal values a deviation, but no range
            found.append(EffectSize(float(values.mean() / values.std(ddof=1)), *limits))
        else:
            found.append(EffectSize(*[math.nan] * 3))
    return found


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


def _defined(columns: Sequence[Sequence[float]]) -> list[np.ndarray]:
    return [np.array([value for value in column if not math.isnan(value)]) for column in columns]


def _by_number(
    defined: Sequence[np.ndarray], statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> list[tuple[float, float]]:
    """The interval of each set, those of as many cases together."""
    intervals: dict[int, tuple[float, float]] = {}
    for n in {len(values) for values in defined}:
        which = [i for i, values in enumerate(defined) if len(values) == n]
        low, high = _intervals(np.stack([defined[i] for i in which], axis=1), statistic).tolist()
        intervals.update(zip(which, zip(low, high, strict=True), strict=True))
    return [intervals[i] for i in range(len(defined))]


def _intervals(values: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Percentile bootstrap of each column of `values`, `(cases, columns)`: `(2, columns)`.

    Args:
        statistic: of how often each case was drawn, `(resamples, cases)`, and the values: `(resamples, columns)`.
    """
    n, columns = values.shape
    if n < 2:
        return np.full((2, columns), math.nan)
    found = np.concatenate([statistic(how_often, values) for how_often in _resamples(n)])
    outside = (1 - CONFIDENCE) / 2
    # NaN is of what has no value in a resample; nanquantile would take much longer, and warn of columns of NaN
    kept = [column[~np.isnan(column)] for column in found.T]
    return np.stack([np.quantile(c, [outside, 1 - outside]) if len(c) else np.full(2, math.nan) for c in kept], axis=1)


def _resamples(n: int) -> Iterator[np.ndarray]:
    """How often each of `n` cases was drawn, `(resamples, n)`, in pieces."""
    generator = np.random.default_rng(SEED)
    size = max(1, AT_ONCE // n)
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)


def _means(how_often: np.ndarray, values: np.ndarray) -> np.ndarray:
    return how_often @ values / len(values)


def _effects(how_often: np.ndarray, values: np.ndarray) -> np.ndarray:
    n = len(values)
    centre, variance = values.mean(0), values.var(0)
    shifts = how_often @ (values - centre) / n
    spreads = how_often @ (values - centre) ** 2 / n - shifts**2
    spreads[spreads <= 1e-9 * variance] = math.nan  # rounding leaves a little where there is none
    return (centre + shifts) / np.sqrt(spreads * n / (n - 1))
