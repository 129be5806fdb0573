"""The table of a cross-validation as Markdown, as CSV, and as a section of the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from nnunetv2_dsvm.cluster.run_folder import RESULTS
from nnunetv2_dsvm.evaluation.comparison import PairedDifference, shown_interval, shown_p
from nnunetv2_dsvm.evaluation.paired_statistics import CONFIDENCE, RESAMPLES
from nnunetv2_dsvm.evaluation.tables import as_csv, number
from nnunetv2_dsvm.reporting.html import TextTable

Differences = Sequence[PairedDifference]
DIFFERENCES = "differences.csv"

_HEADS = (
    "model", "seeds", "folds", "epochs", "cases", "Dice", "95 % interval", "SD over seeds", "GPU memory", "hours",
    "parameters",
)  # fmt: skip
_PAIR_HEADS = ("difference", "cases", "Dice", "95 % interval", "p (Holm)")
NOTE = (
    "Dice: mean over the classes, of the validation cases of all folds together, without a class that is neither in a "
    f"case nor predicted. Interval: of that number, confidence {CONFIDENCE:.0%}, percentiles of {RESAMPLES:,} "
    "bootstrap resamples of the cases; of several seeds, of each case's mean over them. GPU memory: the most that the "
    "GPU of a training had in use. Hours: all epochs of all folds, of several seeds their mean. Differences: over the "
    "same cases, the first model minus the second; p: two-sided Wilcoxon signed-rank test, corrected for the number of "
    "pairs by Holm."
)


@dataclass(frozen=True)
class Row:
    """A model; NaN or None for what is not known."""

    title: str
    dataset: str
    trainer: str
    plans: str
    configuration: str
    seeds: int
    folds: int
    epochs: int | None
    cases: int
    dice: float
    ci95_low: float
    ci95_high: float
    std_over_seeds: float
    gpu_memory_gib: float
    hours: float
    parameters: int | None

    def cells(self) -> list[str]:
        """Under `_HEADS`."""
        return [
            self.title,
            str(self.seeds),
            str(self.folds),
            "–" if self.epochs is None else str(self.epochs),
            str(self.cases),
            _shown(self.dice, ".4f"),
            "–" if math.isnan(self.ci95_low) else f"[{self.ci95_low:.4f}, {self.ci95_high:.4f}]",
            _shown(self.std_over_seeds, ".4f"),
            _shown(self.gpu_memory_gib, ".1f", " GiB"),
            _shown(self.hours, ".3g"),
            "–" if self.parameters is None else f"{self.parameters:,}",
        ]


def as_files(rows: Sequence[Row], differences: Mapping[str, Differences]) -> dict[str, str]:
    """The texts of results.md, results.csv and differences.csv, by name; the last only where there are any.

    Args:
        differences: of the pairs of models, by data set.
    """
    parts = ["# Cross-validation"]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        parts += [f"## {dataset}", _markdown(_HEADS, [row.cells() for row in rows if row.dataset == dataset])]
        if differences.get(dataset):
            parts.append(_markdown(_PAIR_HEADS, [_pair(d) for d in differences[dataset]]))
    names = [field.name for field in fields(Row)]
    files = {
        RESULTS: "\n\n".join([*parts, NOTE, *_warnings(rows)]) + "\n",
        "results.csv": as_csv([names, *([_csv(value) for value in astuple(row)] for row in rows)]),
    }
    if differences:
        columns = ("first", "second", "n", "mean_difference", "ci95_low", "ci95_high", "p_value", "p_value_holm")
        lines = [[ds, *(_csv(getattr(d, name)) for name in columns)] for ds, of in differences.items() for d in of]
        files[DIFFERENCES] = as_csv([["dataset", *columns], *lines])
    return files


def as_sections(rows: Sequence[Row], differences: Differences) -> list[TextTable]:
    """The tables of one data set, for its report."""
    tables = [TextTable(_HEADS, [row.cells() for row in rows])]
    if differences:
        tables.append(TextTable(_PAIR_HEADS, [_pair(d) for d in differences]))
    return [*tables[:-1], TextTable(tables[-1].heads, tables[-1].rows, [NOTE, *_warnings(rows)])]


def _warnings(rows: Sequence[Row]) -> list[str]:
    """Where the budgets of the models are not the same."""
    found = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        epochs = {row.title: row.epochs for row in rows if row.dataset == dataset}
        if len(set(epochs.values())) > 1:
            each = ", ".join(f"{title}: {'unequal' if n is None else n}" for title, n in epochs.items())
            found.append(f"The budgets of {dataset} are not matched, the epochs differ: {each}.")
    return found


def _pair(d: PairedDifference) -> list[str]:
    return [d.difference, str(d.n), _shown(d.mean_difference, "+.4f"), shown_interval(d), shown_p(d.p_value_holm)]


def _shown(value: float, form: str, unit: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}{unit}"


def _csv(value: Any) -> Any:
    return number(value) if isinstance(value, float) else value


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
