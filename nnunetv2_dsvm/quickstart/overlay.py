"""A picture to judge a segmentation by: image, ground truth and prediction side by side, in a few slices."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunetv2_dsvm.quickstart.baseline import Box
from nnunetv2_dsvm.reporting.label_colours import choose_label_colours, rgb_of

OPACITY = 0.55


def write_overlay(
    path: Path,
    *,
    image: np.ndarray,
    columns: Mapping[str, np.ndarray],
    label_names: Sequence[str],
    spacing_mm: tuple[float, float],
    crop: Box,
    title: str,
    window_hu: tuple[float, float] = (-160, 240),
    number_of_slices: int = 3,
) -> None:
    """Write a PNG: a row per slice, evenly chosen; the bare image first, then one column per segmentation over it.

    Args:
        image: CT `(z, y, x)`, HU, rows towards posterior, columns towards the patient's left.
        columns: segmentations of the image's shape by their title.
        label_names: names of labels 1, 2, …
        spacing_mm: of the rows and of the columns.
        crop: the rows and columns to show.
        title: above the picture.
        window_hu: HU shown black and white.
        number_of_slices: rows of the picture, at most the image's slices.
    """
    depth = len(image)
    number_of_slices = min(number_of_slices, depth)
    chosen = [int((i + 0.5) * depth / number_of_slices) for i in range(number_of_slices)]
    inside = (slice(crop.top, crop.bottom), slice(crop.left, crop.right))
    height = (crop.bottom - crop.top) * spacing_mm[0]
    width = (crop.right - crop.left) * spacing_mm[1]

    panel_width = 4.0
    panel_height = panel_width * height / width
    n_columns = 1 + len(columns)
    size = (panel_width * n_columns, panel_height * number_of_slices + 1.1)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(number_of_slices, n_columns, squeeze=False)
    greys, slices = [], []
    for z in chosen:
        grey = np.clip((image[z][inside] - window_hu[0]) / (window_hu[1] - window_hu[0]), 0, 1)
        greys.append(np.repeat(grey[..., None], 3, axis=-1))
        slices.append([segmentation[z][inside] for segmentation in columns.values()])
    colours = choose_label_colours(
        (
            (grey, [labels == value for value in range(1, len(label_names) + 1)])
            for grey, of_slice in zip(greys, slices, strict=True)
            for labels in of_slice
        ),
        len(label_names),
    )
    for row, z, grey, of_slice in zip(axes, chosen, greys, slices, strict=True):
        for axis, panel in zip(row, [grey, *(_coloured(grey, labels, colours) for labels in of_slice)], strict=True):
            axis.imshow(panel, extent=(0, width, height, 0), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"slice {z + 1} of {depth}")
    for axis, heading in zip(axes[0], ["image", *columns], strict=True):
        axis.set_title(heading)
    figure.suptitle(title)
    handles = [
        Patch(facecolor=colour, edgecolor="black", label=name.replace("_", " "))
        for colour, name in zip(colours, label_names, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), frameon=False)
    canvas.print_png(path)


def _coloured(grey: np.ndarray, labels: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """An RGB slice `(y, x, 3)` in 0 … 1 with its labels painted over it."""
    result = grey.copy()
    for value in np.unique(labels[labels > 0]):
        where = labels == value
        result[where] = (1 - OPACITY) * grey[where] + OPACITY * rgb_of(colours[int(value) - 1])
    return result
