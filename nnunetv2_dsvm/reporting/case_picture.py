"""A case as a picture: image, ground truth and each model's prediction side by side, with contours over the image."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from nnunetv2_dsvm.evaluation.label_colours import LABEL_COLOURS, label_colour
from nnunetv2_dsvm.image_grid import grid_problem, placed
from nnunetv2_dsvm.label_maps import read_label_map
from nnunetv2_dsvm.nifti_files import check_whole, is_nifti
from nnunetv2_dsvm.reporting.display import displayed, slice_to_show, upright
from nnunetv2_dsvm.reporting.models import TrainedModel
from nnunetv2_dsvm.reporting.style import LINE_STYLES, STYLE

FILL = 0.28  # opacity inside of the contours
PANEL_WIDTH = 3.1  # inches
TITLE_LENGTH = 30  # characters over a panel, before the line breaks


@dataclass(frozen=True)
class CasePicture:
    """What the caption of a picture tells: the slice (from 1) and their number, and how the image is shown."""

    slice_number: int
    slices: int
    shown_as: str


def write_case_picture(
    path: Path,
    model: TrainedModel,
    *,
    images: Sequence[Path],
    truth: Path,
    predictions: Mapping[str, Path],
) -> CasePicture:
    """Draw one slice of a case, read by nnU-Net's own reader, as a PNG.

    Args:
        model: whose labels, channels and reader are used.
        images: the channels.
        truth: the ground truth's label map.
        predictions: the predicted label maps by the title of their column.

    Raises:
        ValueError: a label map lies on another grid than the image, or holds values that are no labels.
        Exception: what nnU-Net's reader, or `check_whole`, raise at a broken image.
    """
    reader = model.reader()
    image, properties = reader.read_images([str(file) for file in images])
    for file in filter(is_nifti, images):
        check_whole(file)
    of_image = placed(image[0], properties)
    segmentations = {}
    for title, file in {"ground truth": truth, **predictions}.items():
        try:
            label_map = read_label_map(file, reader)
        except ValueError as error:
            raise ValueError(f"{file} {error}") from error
        if difference := grid_problem(label_map, of_image, "its image", images[0]):
            raise ValueError(f"{file} {difference}")
        segmentations[title] = label_map.values
    foreground = sorted({value for values in model.labels.values() for value in values})
    masks = [np.isin(segmentation, foreground) for segmentation in segmentations.values()]
    z = slice_to_show(masks[0], masks[1:])
    rows, columns = upright(properties)
    description = model.dataset_json
    names = list((description.get("channel_names") or description["modality"]).values())  # nnU-Net reads both
    shown = displayed(image, z, names)

    slices = {title: segmentation[z][rows, columns] for title, segmentation in segmentations.items()}
    _, height_mm, width_mm = (float(s) for s in properties["spacing"])
    ignored = model.dataset_json["labels"].get("ignore")
    _draw(path, shown.rgb[rows, columns], slices, model.labels, ignored, height_mm / width_mm)
    return CasePicture(z + 1, image.shape[1], shown.description)


def _draw(
    path: Path,
    rgb: np.ndarray,
    slices: Mapping[str, np.ndarray],
    labels: Mapping[str, tuple[int, ...]],
    ignored: int | None,
    pixel_aspect: float,
) -> None:
    n = 1 + len(slices)
    ratio = rgb.shape[0] * pixel_aspect / rgb.shape[1]
    legend_rows = -(-(len(labels) + 2) // 6)
    title_lines = max(1 + _wrapped(title).count("\n") for title in slices)
    height = PANEL_WIDTH * min(max(ratio, 0.2), 4) + 0.1 + 0.25 * (legend_rows + title_lines)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "axes.grid": False}):
        figure = Figure(figsize=(PANEL_WIDTH * n, height), layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(1, n, squeeze=False)[0]
        truth = next(iter(slices.values()))
        has_ignored = ignored is not None and bool((truth == ignored).any())
        _show(panels[0], rgb, "image", pixel_aspect)
        for axes, (title, segmentation) in zip(panels[1:], slices.items(), strict=True):
            _show(axes, _filled(rgb, segmentation, labels), title, pixel_aspect)
            if segmentation is truth and has_ignored:
                axes.contourf(truth == ignored, levels=[0.5, 1.5], colors=["#999999"], hatches=["////"], alpha=0.6)
            for i, values in enumerate(labels.values()):
                _contour(axes, np.isin(segmentation, values), label_colour(i), _line_style(i))
            if segmentation is not truth:
                for values in labels.values():
                    _contour(axes, np.isin(truth, values), "white", (0, (4, 2)), width=0.9)
        figure.legend(
            handles=_handles(labels, has_ignored), loc="outside lower center", ncols=min(len(labels) + 2, 6), fontsize=9
        )
        canvas.print_png(path)


def _show(axes: Axes, rgb: np.ndarray, title: str, pixel_aspect: float) -> None:
    axes.imshow(rgb, aspect=pixel_aspect, interpolation="nearest")
    axes.set_title(_wrapped(title), fontweight="normal", fontsize=10)
    axes.set_axis_off()


def _wrapped(title: str) -> str:
    """In lines that fit over a panel; names of trainers break after an underscore."""
    return textwrap.fill(title.replace("_", "_ "), TITLE_LENGTH).replace("_ ", "_").replace("$", r"\$")


def _filled(rgb: np.ndarray, segmentation: np.ndarray, labels: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    result = rgb.copy()
    for i, values in enumerate(labels.values()):
        where = np.isin(segmentation, values)
        result[where] = (1 - FILL) * rgb[where] + FILL * np.array(matplotlib.colors.to_rgb(label_colour(i)))
    return result


def _contour(axes: Axes, mask: np.ndarray, colour: str, line_style: Any, width: float = 1.4) -> None:
    if not mask.any():
        return
    padded = np.pad(mask.astype(np.float32), 1)  # closes the contours at the image's edge
    y, x = (np.arange(-1, size + 1) for size in mask.shape)
    contours = axes.contour(x, y, padded, levels=[0.5], colors=colour, linewidths=width, linestyles=[line_style])
    contours.set_path_effects([withStroke(linewidth=width + 1, foreground="black", alpha=0.6)])
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def _handles(labels: Mapping[str, tuple[int, ...]], has_ignored: bool) -> list[Line2D | Patch]:
    effects = [withStroke(linewidth=3.4, foreground="black", alpha=0.6)]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=label_colour(i), linestyle=_line_style(i), linewidth=2.4, path_effects=effects,
               label=name.replace("_", " ").replace("$", r"\$"))  # or matplotlib takes it for a formula
        for i, name in enumerate(labels)
    ]  # fmt: skip
    effects = [withStroke(linewidth=2.2, foreground="black", alpha=0.8)]
    truth = Line2D([], [], color="white", linestyle=(0, (4, 2)), linewidth=1.1, path_effects=effects)
    truth.set_label("ground truth, over the prediction")
    handles.append(truth)
    if has_ignored:
        handles.append(Patch(facecolor="#999999", hatch="////", alpha=0.6, label="ignored"))
    return handles


def _line_style(i: int) -> str:
    return LINE_STYLES[i // len(LABEL_COLOURS) % len(LINE_STYLES)]
