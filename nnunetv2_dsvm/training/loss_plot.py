"""The picture of the loss terms over the epochs, beside nnU-Net's progress.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunetv2_dsvm.files.atomic_write import replaced_file


def plot_distillation_progress(history: Mapping[str, Sequence[float]], filename: str) -> None:
    """Draws each series over the epochs, one panel each, and replaces the picture in one step.

    Args:
        history: one value per epoch, by the name of the series.
        filename: of the PNG.
    """
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # nnU-Net's plot changes the global settings
        figure = Figure(figsize=(9, 2.6 * len(history)), layout="constrained")
        panels = figure.subplots(len(history), sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, history.items(), strict=True):
            axes.plot(range(len(values)), values, marker="." if len(values) < 50 else None)
            axes.set_ylabel(name)
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[-1].set_xlabel("epoch")
        figure.suptitle("training: means over each epoch, terms without their weights")
        with replaced_file(Path(filename)) as partial:
            figure.savefig(partial, format="png", dpi=110)
