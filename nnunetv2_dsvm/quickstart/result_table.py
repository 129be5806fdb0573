"""A table of Dice per organ, the method beside its baselines, as Markdown, CSV and JSON."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DiceColumn:
    """One method's Dice per label name; NaN where a label is in neither the truth nor the prediction."""

    title: str
    dice: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the labels that are not NaN; NaN where all are."""
        known = [value for value in self.dice.values() if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


def read_dice(summary_file: Path, label_names: Mapping[str, int]) -> dict[str, float]:
    """Mean Dice per label over the cases, from the `summary.json` of `nnUNetv2_evaluate_folder`.

    Args:
        label_names: label values by name, without the background.
    """
    means = json.loads(summary_file.read_text(encoding="utf-8"))["mean"]
    return {name: float(means[str(value)]["Dice"]) for name, value in label_names.items()}


def markdown_table(columns: list[DiceColumn]) -> str:
    """A row per label, a column per method, and the means at the end if there are several labels."""
    rows = [["organ", *(column.title for column in columns)]]
    rows += [[name.replace("_", " "), *(_shown(c.dice[name]) for c in columns)] for name in columns[0].dice]
    if len(columns[0].dice) > 1:
        rows += [["**mean**", *(f"**{_shown(column.mean)}**" for column in columns)]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *values in rows:
        cells = [name.ljust(widths[0]), *(value.rjust(width) for value, width in zip(values, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def write_table(
    folder: Path, *, title: str, columns: list[DiceColumn], notes: list[str], details: Mapping[str, Any]
) -> str:
    """Write `result.md`, `result.csv` and `result.json`.

    Args:
        columns: the method first, then what it is compared with.
        notes: sentences that a reader of the table needs, one a line.
        details: anything else for the JSON file.

    Returns:
        The Markdown text.
    """
    text = "\n".join([f"# {title}", "", markdown_table(columns), "", *(f"- {note}" for note in notes)]) + "\n"
    (folder / "result.md").write_text(text, encoding="utf-8")
    with open(folder / "result.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["organ", *(column.title for column in columns)])
        writer.writerows([name, *(column.dice[name] for column in columns)] for name in columns[0].dice)
        if len(columns[0].dice) > 1:
            writer.writerow(["mean", *(column.mean for column in columns)])
    results = [{"title": c.title, "mean_dice": _number(c.mean),
                "dice": {name: _number(value) for name, value in c.dice.items()}} for c in columns]  # fmt: skip
    content = {"title": title, "results": results, "notes": notes, **details}
    (folder / "result.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return text


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
