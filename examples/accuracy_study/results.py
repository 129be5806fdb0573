"""The study's results: three CSV files in one folder, which grow by whole trainings.

`trainings.csv` has a row a training, `cases.csv` one a case and label, `curves.csv` one an epoch. The first is written
last. Scores are of the final validation without mirroring and, as `…_mirrored`, with it, as nnU-Net predicts.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plan import Finished, Training

from nnunetv2_dsvm.cluster.locks import held
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.tables import as_csv
from nnunetv2_dsvm.files.atomic_write import write_text

RESULTS = Path(__file__).parent / "results"
LOCK = ".lock"  # beside the CSV files, for as long as they are written
PATIENCE_S = 60.0
COLUMNS = {
    "cases.csv": ("training", "case", "label", "Dice", "HD95", "Dice_mirrored", "HD95_mirrored"),
    "curves.csv": ("training", "epoch", "pseudo_dice", "training_loss", "validation_loss", "seconds"),
    "trainings.csv": (
        "training", *Training._fields, "dice", "dice_mirrored", "epoch_seconds", "hours", "wall_seconds",
        "trainings_per_gpu", "loaders", "peak_memory_mib", "parameters", "parameters_of_the_distillation", "gpu",
        "python", "torch", "nnunetv2", "nnunetv2_dsvm", "day",
    ),
}  # fmt: skip
Row = Mapping[str, str]


def read(folder: Path, name: str) -> list[Row]:
    """The rows of one of the files; none where there is no file.

    Raises:
        UserError: it has other columns than now.
    """
    path = folder / name
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames and tuple(reader.fieldnames) != COLUMNS[name]:
            raise UserError(
                f"{path} has the columns {', '.join(reader.fieldnames)}, but those of the study are "
                f"{', '.join(COLUMNS[name])}: it is of another version; begin with copies of the files in {RESULTS}"
            )
        return list(reader)


def finished(folder: Path) -> dict[str, Finished]:
    """What has ended, by name."""
    rows = read(folder, "trainings.csv")
    return {
        row["training"]: Finished(number(row["dice"]), number(row["dice_mirrored"]), int(row["parameters"]))
        for row in rows
    }


def number(cell: str) -> float | None:
    """None of an empty cell: that was not measured."""
    return float(cell) if cell else None


def add(folder: Path, outcomes: Iterable[Mapping[str, Sequence[Sequence[Any]]]]) -> None:
    """Adds trainings; what the files have of the same ones goes.

    No reader ever sees a part of a file, and calls that add to the same files take turns.

    Args:
        folder: that is made where it is missing.
        outcomes: rows by file, the training's name in front.

    Raises:
        Held: another call has been writing for a minute.
    """
    outcomes = list(outcomes)
    names = {str(row[0]) for outcome in outcomes for row in outcome["trainings.csv"]}
    with held(folder / LOCK, f"the results in {folder}", patience_s=PATIENCE_S):
        for name, columns in COLUMNS.items():
            kept = [[row[c] for c in columns] for row in read(folder, name) if row["training"] not in names]
            new = [list(row) for outcome in outcomes for row in outcome[name]]
            write_text(folder / name, as_csv([columns, *kept, *new]))
