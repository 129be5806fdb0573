"""Learning curves of a stage: nnU-Net's Dice of validation patches, epoch by epoch.

    python examples/accuracy_study/figure.py scan --to examples/accuracy_study/results/scan.png

A line is the mean over the folds and seeds that are finished, the band reaches from the lowest of them to the highest.
The first tenth of the epochs may lie below the picture.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
import results
from matplotlib.figure import Figure
from plan import PLAN, Plan
from scripts import status_of
from tables import short

from nnunetv2_dsvm.reporting.style import FOLD_COLOURS, STYLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", help="its name in plan.json")
    parser.add_argument("--plan", type=Path, default=PLAN, metavar="JSON")
    parser.add_argument("--results", type=Path, default=results.RESULTS, metavar="FOLDER", help="of the CSV files")
    parser.add_argument("--to", type=Path, required=True, metavar="PNG")
    args = parser.parse_args()
    plan, done = Plan.read(args.plan), results.finished(args.results)
    stage = plan.stage(args.stage)
    dice: dict[str, list[float]] = defaultdict(list)
    for row in results.read(args.results, "curves.csv"):
        dice[row["training"]].append(float(row["pseudo_dice"] or "nan"))
    found = {
        (dataset, configuration): {
            model: np.array(
                [
                    dice[t.name]
                    for t in plan.of_model(stage, model, dataset, configuration)
                    if stage.score(t, done) is not None
                ]
            )
            for model in plan.models_of(stage, done)
        }
        for dataset in stage.datasets
        for configuration in stage.configurations
    }
    if not any(len(curves) for models in found.values() for curves in models.values()):
        parser.error(f"no training of {stage.name} is finished")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = Figure(figsize=(max(6.4, 4.6 * len(found)), 4.0), layout="constrained", facecolor="white")
        all_axes = figure.subplots(1, len(found), squeeze=False)[0]
        handles = {}
        for axes, (place, models) in zip(all_axes, found.items(), strict=True):
            for number, (model, curves) in enumerate(models.items()):
                if len(curves):
                    colour, epochs = FOLD_COLOURS[number % len(FOLD_COLOURS)], np.arange(1, curves.shape[1] + 1)
                    (handles[short(model)],) = axes.plot(epochs, curves.mean(0), color=colour)
                    axes.fill_between(epochs, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0)
            late = [curves[:, curves.shape[1] // 10 :] for curves in models.values() if len(curves)]
            axes.set_ylim(bottom=min((np.nanmin(curves) for curves in late), default=None))  # below: the first epochs
            axes.set_title(", ".join(place), loc="left")
            axes.set_xlabel("epoch")
        all_axes[0].set_ylabel("pseudo Dice of validation patches")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 if len(found) == 1 else 3)
        figure.savefig(args.to)
    print(f"Wrote {args.to}")


if __name__ == "__main__":
    sys.exit(status_of(main))
