"""Learning curves from what score.py wrote: nnU-Net's Dice of validation patches, epoch by epoch.

    python examples/accuracy_study/figure.py examples/accuracy_study/results/grid_final \\
        --to examples/accuracy_study/results/curves.png

A line is the mean over seeds of a run, the band reaches from the lowest seed to the highest.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tables import read

from nnunetv2_dsvm.reporting.style import FOLD_COLOURS, STYLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True, metavar="PNG")
    parser.add_argument("--runs", nargs="*", metavar="RUN", help="default: all")
    args = parser.parse_args()
    curves: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in read(args.folder / "curves.csv"):
        if not args.runs or row["run"] in args.runs:
            curves[row["dataset"]][row["run"]][row["seed"]].append(float(row["pseudo_dice"]))
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = Figure(figsize=(4.6 * len(curves), 3.6), layout="constrained", facecolor="white")
        all_axes = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (dataset, runs) in zip(all_axes, sorted(curves.items()), strict=True):
            for number, (run, seeds) in enumerate(runs.items()):
                values, colour = np.array(list(seeds.values())), FOLD_COLOURS[number % len(FOLD_COLOURS)]
                epochs = np.arange(1, values.shape[1] + 1)
                axes.plot(epochs, values.mean(0), color=colour, label=run, marker=".")
                axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
            axes.set_title(dataset, loc="left")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        all_axes[0].set_ylabel("pseudo Dice of validation patches")
        figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.savefig(args.to)
    print(f"Wrote {args.to}")


if __name__ == "__main__":
    main()
