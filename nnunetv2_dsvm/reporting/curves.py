"""Training curves of a model's folds, from what nnU-Net's logger leaves in the checkpoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from nnunetv2_dsvm.models.checkpoint import read_checkpoint
from nnunetv2_dsvm.nnunet.names import CHECKPOINTS, FINAL
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.style import FOLD_COLOURS, STYLE
from nnunetv2_dsvm.reporting.training_effort import epoch_seconds, number_of_parameters

DECLINE_FOR_A_LOGARITHM = 5  # a series that falls less is drawn on a linear axis

History = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """One diagram: its title, and the logged series in it with their line style and name."""

    title: str
    series: tuple[tuple[str, str, str], ...]
    logarithmic: bool = False


# nnU-Net's own series first; the others are there for trainers with dual self-distillation.
PANELS = (
    Panel("loss", (("train_losses", "-", "training"), ("val_losses", ":", "validation"))),
    Panel("pseudo Dice", (("ema_fg_dice", "-", "moving average"), ("mean_fg_dice", ":", "epoch"))),
    Panel("learning rate", (("lrs", "-", ""),)),
    Panel("segmentation loss", (("segmentation_loss", "-", ""),)),
    Panel("L_proj (projection)", (("L_proj", "-", ""),), logarithmic=True),
    Panel("L_prog (progressive)", (("L_prog", "-", ""),), logarithmic=True),
    Panel("ramp of the distillation", (("distillation_ramp", "-", ""),)),
)


@dataclass(frozen=True)
class Curves:
    """The logged series of each fold, what a reader must know about them, and what the training took.

    Args:
        parameters: of the network; None where no checkpoint tells.
        epoch_seconds: of each fold's epochs, where its checkpoint tells.
    """

    histories: Mapping[str, History]
    notes: tuple[str, ...]
    parameters: int | None = None
    epoch_seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def panels(self) -> list[Panel]:
        """The panels that have something to show."""
        return [panel for panel in PANELS if self.values(panel)]

    def values(self, panel: Panel) -> list[float]:
        """All finite values that a panel shows."""
        logged = (history.get(key, ()) for history in self.histories.values() for key, _, _ in panel.series)
        return [value for series in logged for value in series if math.isfinite(value)]


def read_curves(model: TrainedModel, folds: Sequence[str]) -> Curves:
    """Read each fold's series from its final checkpoint, or from the last one of a training that is not finished.

    Raises:
        UserError: a checkpoint is broken, or asks for code to be run.
    """
    histories, notes, parameters, seconds = {}, [], None, {}
    for fold in folds:
        present = [path for name in CHECKPOINTS if (path := model.fold_folder(fold) / name).is_file()]
        if not present:
            notes.append(f"Fold {fold} has no checkpoint, and so no curves.")
            continue
        checkpoint = read_checkpoint(present[0])
        parameters = parameters or number_of_parameters(checkpoint.weights)
        logged = checkpoint.logged
        if not logged:
            notes.append(f"Fold {fold}: {present[0].name} holds no training curves.")
            continue
        keys = {key for panel in PANELS for key, _, _ in panel.series}
        histories[fold] = {key: [float(v) for v in values] for key, values in logged.items() if key in keys}
        if of_epochs := epoch_seconds(logged):
            seconds[fold] = of_epochs
        if present[0].name != FINAL:
            epochs = len(histories[fold].get("train_losses", ()))
            notes.append(f"Fold {fold} is not finished: {present[0].name}, after {epochs} epochs.")
    return Curves(histories, tuple(notes), parameters, seconds)


def limits(all_curves: Sequence[Curves]) -> dict[str, tuple[float, float]]:
    """The range of each panel's values over several models, so that their diagrams compare at a glance."""
    found = {}
    for panel in PANELS:
        values = [value for curves in all_curves for value in curves.values(panel)]
        if panel.logarithmic:
            values = [value for value in values if value > 0]
        if values:
            found[panel.title] = (min(values), max(values))
    return found


def write_curves(path: Path, curves: Curves, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Draw a PNG: one panel below the other, a line per fold.

    Args:
        ranges: from `limits`; the axes of all models of a report are the same.
    """
    import matplotlib

    panels = curves.panels
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = Figure(figsize=(6.4, 0.7 + 1.75 * len(panels)), layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(all_axes, panels, strict=True):
            _draw(axes, panel, curves, ranges.get(panel.title, None))
        all_axes[-1].set_xlabel("epoch")
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [Line2D([], [], color=_colour(i), label=f"fold {fold}") for i, fold in enumerate(curves.histories)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5))
        canvas.print_png(path)


def _draw(axes: Axes, panel: Panel, curves: Curves, value_range: tuple[float, float] | None) -> None:
    for i, history in enumerate(curves.histories.values()):
        for key, line_style, _ in panel.series:
            values = history.get(key, ())
            marker = "." if len(values) < 30 else None
            solid = line_style == "-"
            axes.plot(
                range(len(values)), values, line_style, color=_colour(i), marker=marker,
                linewidth=1.3 if solid else 0.9, alpha=1 if solid else 0.65,
            )  # fmt: skip
    axes.set_title(panel.title, loc="left")
    if value_range:
        low, high = value_range
        if panel.logarithmic and high > DECLINE_FOR_A_LOGARITHM * low:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.3, high * 1.3)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
            axes.set_ylim(low - margin, high + margin)
    named = [(line_style, name) for _, line_style, name in panel.series if name]
    if named:
        handles = [Line2D([], [], linestyle=line_style, color="#555555", label=name) for line_style, name in named]
        axes.legend(handles=handles, loc="best")


def _colour(i: int) -> str:
    return FOLD_COLOURS[i % len(FOLD_COLOURS)]
