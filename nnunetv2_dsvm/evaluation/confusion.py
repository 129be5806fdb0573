"""True and false positives and negatives, and the ratios made of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Counts(NamedTuple):
    """Pixels (or voxels) of one label: true positives, false positives, false negatives, true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    def dice(self) -> float:
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def iou(self) -> float:
        return ratio(self.tp, self.tp + self.fp + self.fn)

    def precision(self) -> float:
        return ratio(self.tp, self.tp + self.fp)

    def sensitivity(self) -> float:
        return ratio(self.tp, self.tp + self.fn)

    def specificity(self) -> float:
        return ratio(self.tn, self.tn + self.fp)

    def accuracy(self) -> float:
        return ratio(self.tp + self.tn, sum(self))


def ratio(part: int, whole: int) -> float:
    """part / whole; NaN where the whole is 0."""
    return part / whole if whole else math.nan


def joint_histogram(reference: np.ndarray, prediction: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """How often each pair of values meets: the confusion matrix of all labels, in one pass over the images.

    Args:
        reference, prediction: unsigned integers of one shape that hold no other values than `values`.
        values: ascending.

    Returns:
        int64 `(len(values), len(values))`; rows are the reference's values.
    """
    n = len(values)
    index_of = np.zeros(values[-1] + 1, dtype=np.intp)
    index_of[list(values)] = np.arange(n)
    histogram = np.zeros(n * n, dtype=np.int64)
    for of_reference, of_prediction in zip(reference, prediction, strict=True):  # slices: temporaries stay small
        pairs = index_of[of_reference] * n + index_of[of_prediction]
        histogram += np.bincount(pairs.ravel(), minlength=n * n)
    return histogram.reshape(n, n)


def counts_of(histogram: np.ndarray, values: Sequence[int], region: Sequence[int], ignore: int | None) -> Counts:
    """The counts of a label or region; pixels whose reference is `ignore` are left out, as nnU-Net leaves them out.

    Args:
        histogram: of `joint_histogram` with the same `values`.
        region: the values that make up the region.
    """
    rows = np.array([value != ignore for value in values])
    inside = np.isin(values, region)
    tp = histogram[np.ix_(inside & rows, inside)].sum()
    fp = histogram[np.ix_(~inside & rows, inside)].sum()
    fn = histogram[np.ix_(inside & rows, ~inside)].sum()
    tn = histogram[np.ix_(~inside & rows, ~inside)].sum()
    return Counts(int(tp), int(fp), int(fn), int(tn))
