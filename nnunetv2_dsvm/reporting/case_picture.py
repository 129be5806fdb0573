"""A case as a picture: image, ground truth and predictions side by side with contours, a row for each plane."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from nnunetv2_dsvm.reporting.case_slices import CaseSlices
from nnunetv2_dsvm.reporting.label_colours import FILL, LABEL_COLOURS, rgb_of
from nnunetv2_dsvm.reporting.style import LINE_STYLES, LineStyle, styled

PANEL_WIDTH = 3.1  # inches
TITLE_LENGTH = 30  # characters over a panel, before the line breaks


def write_case_picture(
    path: Path,
    planes: Sequence[CaseSlices],
    labels: Mapping[str, tuple[int, ...]],
    colours: Sequence[str],
    ignored: int | None = None,
) -> None:
    """Draw a PNG, a row for each plane.

    Args:
        planes: of one case: one slice, or one in each of three planes.
        labels: the label values of each class, by its name.
        colours: one per class.
        ignored: nnU-Net's ignore label, hatched in the ground truth.
    """
    titles = list(planes[0].segmentations)
    n = 1 + len(titles)
    heights = [min(max(p.rgb.shape[0] * p.pixel_aspect / p.rgb.shape[1], 0.2), 4) for p in planes]
    legend_rows = -(-(len(labels) + 2) // 6)
    title_lines = max(1 + _wrapped(title).count("\n") for title in titles)
    height = PANEL_WIDTH * sum(heights) + 0.1 * len(planes) + 0.25 * (legend_rows + title_lines)
    has_ignored = False
    with styled({"axes.grid": False}):
        figure = Figure(figsize=(PANEL_WIDTH * n, height), layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        rows = figure.subplots(len(planes), n, squeeze=False, gridspec_kw={"height_ratios": heights})
        for row, (panels, plane) in enumerate(zip(rows, planes, strict=True)):
            headings = ["image", *titles] if row == 0 else [""] * n
            has_ignored |= _draw_plane(panels, plane, headings, labels, colours, ignored)
        figure.legend(
            handles=_handles(labels, colours, has_ignored, compared=len(titles) > 1), loc="outside lower center",
            ncols=min(len(labels) + 2, 6), fontsize=9,
        )  # fmt: skip
        canvas.print_png(path)


def _draw_plane(
    panels: Sequence[Axes],
    plane: CaseSlices,
    headings: Sequence[str],
    labels: Mapping[str, tuple[int, ...]],
    colours: Sequence[str],
    ignored: int | None,
) -> bool:
    """Draws one row; whether pixels of the ground truth are ignored in it."""
    rgb, truth = plane.rgb, next(iter(plane.segmentations.values()))
    has_ignored = ignored is not None and bool((truth == ignored).any())
    _show(panels[0], rgb, headings[0], plane.pixel_aspect)
    for axes, heading, segmentation in zip(panels[1:], headings[1:], plane.segmentations.values(), strict=True):
        _show(axes, _filled(rgb, segmentation, labels, colours), heading, plane.pixel_aspect)
        if segmentation is truth and has_ignored:
            axes.contourf(truth == ignored, levels=[0.5, 1.5], colors=["#999999"], hatches=["////"], alpha=0.6)
        for i, values in enumerate(labels.values()):
            _contour(axes, np.isin(segmentation, values), colours[i], _line_style(i))
        if segmentation is not truth:
            for values in labels.values():
                _contour(axes, np.isin(truth, values), "white", (0, (4, 2)), width=0.9)
    return has_ignored


def _show(axes: Axes, rgb: np.ndarray, title: str, pixel_aspect: float) -> None:
    axes.imshow(rgb, aspect=pixel_aspect, interpolation="nearest")
    axes.set_title(_wrapped(title), fontweight="normal", fontsize=10)
    axes.set_axis_off()


def _wrapped(title: str) -> str:
    """In lines that fit over a panel; names of trainers break after an underscore."""
    return textwrap.fill(title.replace("_", "_ "), TITLE_LENGTH).replace("_ ", "_").replace("$", r"\$")


def _filled(
    rgb: np.ndarray, segmentation: np.ndarray, labels: Mapping[str, tuple[int, ...]], colours: Sequence[str]
) -> np.ndarray:
    result = rgb.copy()
    for values, colour in zip(labels.values(), colours, strict=True):
        where = np.isin(segmentation, values)
        result[where] = (1 - FILL) * rgb[where] + FILL * rgb_of(colour)
    return result


def _contour(axes: Axes, mask: np.ndarray, colour: str, line_style: Any, width: float = 1.4) -> None:
    if not mask.any():
        return
    padded = np.pad(mask.astype(np.float32), 1)  # closes the contours at the image's edge
    y, x = (np.arange(-1, size + 1) for size in mask.shape)
    contours = axes.contour(x, y, padded, levels=[0.5], colors=colour, linewidths=width, linestyles=[line_style])
    contours.set_path_effects([withStroke(linewidth=width + 1, foreground="black", alpha=0.6)])
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def _handles(labels: Iterable[str], colours: Sequence[str], has_ignored: bool, compared: bool) -> list[Line2D | Patch]:
    effects = [withStroke(linewidth=3.4, foreground="black", alpha=0.6)]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colours[i], linestyle=_line_style(i), linewidth=2.4, path_effects=effects,
               label=name.replace("_", " ").replace("$", r"\$"))  # or matplotlib takes it for a formula
        for i, name in enumerate(labels)
    ]  # fmt: skip
    if compared:
        effects = [withStroke(linewidth=2.2, foreground="black", alpha=0.8)]
        truth = Line2D([], [], color="white", linestyle=(0, (4, 2)), linewidth=1.1, path_effects=effects)
        truth.set_label("ground truth, over the prediction")
        handles.append(truth)
    if has_ignored:
        handles.append(Patch(facecolor="#999999", hatch="////", alpha=0.6, label="ignored"))
    return handles


def _line_style(i: int) -> LineStyle:
    return LINE_STYLES[i // len(LABEL_COLOURS) % len(LINE_STYLES)]
