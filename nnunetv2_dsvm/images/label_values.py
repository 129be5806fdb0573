"""Which values of an array can be no labels, in words."""

from collections.abc import Mapping

import numpy as np

LARGEST_LABEL = int(np.iinfo(np.uint16).max)
SHOWN = 8  # values in a message


def no_labels(values: np.ndarray, not_numbers: Mapping[str, int] | None = None) -> str | None:
    """The values that are not integers from 0 to `LARGEST_LABEL`, each with its number of voxels.

    Args:
        not_numbers: how often NaN and infinities stand in the file, where the reader does not return them.

    Returns:
        For a message, e.g. `NaN in 3 voxels, 0.5 in 1`; None where all can be labels.
    """
    with np.errstate(invalid="ignore"):
        wrong = values[values.astype(np.uint16) != values]
    finite = np.isfinite(wrong)
    found = dict(not_numbers or count_not_numbers(wrong[~finite]))
    different, counts = np.unique(wrong[finite], return_counts=True)
    # As many digits as tell the value from its neighbours: 1.0000001 is no label.
    shown = (str(value).removesuffix(".0") for value in different[:SHOWN])
    found |= {value: int(count) for value, count in zip(shown, counts, strict=False)}
    if not found:
        return None
    return in_words(found, len(different) - SHOWN)


def in_words(counts: Mapping[str, int], others: int = 0) -> str:
    """Values with their numbers of voxels.

    Args:
        others: how many more values there are.
    """
    (first, n), *rest = counts.items()
    text = f"{first} in {n} voxel{'s' if n > 1 else ''}"
    text = ", ".join([text, *(f"{value} in {n}" for value, n in rest)])
    return f"{text} and {others} other values" if others > 0 else text


def count_not_numbers(values: np.ndarray) -> dict[str, int]:
    """How often NaN, Inf and -Inf stand in an array; only those that do."""
    counts = {"NaN": np.isnan(values), "Inf": np.isposinf(values), "-Inf": np.isneginf(values)}
    return {name: int(n) for name, found in counts.items() if (n := found.sum())}
