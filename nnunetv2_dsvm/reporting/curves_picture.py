"""Training curves as a picture: a panel for each kind of series, a line for each fold."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from nnunetv2_dsvm.reporting.curves import Curves, Panel
from nnunetv2_dsvm.reporting.style import FOLD_COLOURS, styled

DECLINE_FOR_A_LOGARITHM = 5  # a series that falls less is drawn on a linear axis


def write_curves(path: Path, curves: Curves, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Draw a PNG: one panel below the other, a line per fold.

    Args:
        ranges: from `limits`; the axes of all models of a report are the same.
    """
    panels = curves.panels
    with styled():
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
