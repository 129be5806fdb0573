"""What a finished training of the accuracy study leaves; for tests that have the study's files on their path."""

from collections.abc import Sequence
from typing import Any


def outcome_of(training: Any, cases: Sequence[list[Any]] = (), **cells: Any) -> dict[str, list[list[Any]]]:
    """Its rows of each CSV file: of `trainings.csv` the named cells, all others empty."""
    from results import COLUMNS

    row = dict.fromkeys(COLUMNS["trainings.csv"], "") | training._asdict()
    row |= {"training": training.name, "parameters": 1, **cells}
    return {"cases.csv": list(cases), "curves.csv": [], "trainings.csv": [list(row.values())]}
