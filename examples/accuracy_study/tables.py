"""The study's tables, as Markdown, from what score.py wrote.

    python examples/accuracy_study/tables.py examples/accuracy_study/results/grid_final --part test \\
        --minus nnUNetTrainerVMUNet nnUNetTrainer

A row is a run: mean ± standard deviation over its seeds of Dice and HD95 (each the mean over labels of the mean over
cases), structures missed altogether, and for each run after --minus the difference of Dice, paired by seed. Of several
folders one table is made, so that runs of one grid can be compared with those of another.
"""

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, str]
BySeed = Mapping[str, Row]  # seed -> its row over all labels


def read(path: Path) -> list[Row]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± sample standard deviation; the mean alone of one value."""
    if not values:
        return "–"
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}" if len(values) > 1 else mean


def differences(run: BySeed, other: BySeed) -> list[float]:
    """Dice of `run` minus Dice of `other`, seed by seed."""
    return [float(run[seed]["Dice"]) - float(other[seed]["Dice"]) for seed in run if seed in other]


def table(scores: Sequence[Row], trainings: Sequence[Row], dataset: str, part: str, minus: Sequence[str]) -> str:
    """One dataset's table, the runs in the order of their mean Dice."""
    runs: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in scores:
        if row["dataset"] == dataset and row["part"] == part and row["label"] == "mean":
            runs[row["run"]][row["seed"]] = row
    lines = [["run", "n", "Dice", "HD95 (mm)", "missed", *(f"minus {name}" for name in minus), "s/epoch", "parameters"]]

    def dice(name: str) -> list[float]:
        return [float(row["Dice"]) for row in runs[name].values()]

    for name in sorted(runs, key=lambda name: -statistics.fmean(dice(name))):
        rows = list(runs[name].values())
        own = [row for row in trainings if row["dataset"] == dataset and row["run"] == name]
        distances = [float(row["HD95_mm"]) for row in rows if row["HD95_mm"]]
        lines.append(
            [
                name,
                str(len(rows)) if own else "",
                spread(dice(name), ".4f"),
                spread(distances, ".2f"),
                f"{statistics.fmean(int(row['missed']) for row in rows):.2g}",
                *("" if other == name else spread(differences(runs[name], runs[other]), "+.4f") for other in minus),
                f"{statistics.median(float(row['epoch_seconds']) for row in own):.1f}" if own else "",
                f"{int(own[0]['parameters']) / 1e6:.1f} M" if own else "",
            ]
        )
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--minus", nargs="*", default=[], metavar="RUN")
    args = parser.parse_args()
    scores, trainings = (
        [row for folder in args.folder for row in read(folder / name)] for name in ("scores.csv", "trainings.csv")
    )
    if unknown := set(args.minus) - {row["run"] for row in scores}:
        parser.error(f"no run {', '.join(sorted(unknown))} in {', '.join(map(str, args.folder))}")
    for dataset in sorted({row["dataset"] for row in scores}):
        print(f"\n{dataset}, {args.part}\n\n{table(scores, trainings, dataset, args.part, args.minus)}")


if __name__ == "__main__":
    main()
