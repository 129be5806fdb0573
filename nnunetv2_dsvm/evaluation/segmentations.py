"""Read a reference and its prediction with nnU-Net's reader, and check that they can be compared."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_dsvm.evaluation.labels import Labels
from nnunetv2_dsvm.images.image_grid import PlacedArray, grid_problem, resampled
from nnunetv2_dsvm.images.label_maps import read_label_map

ADVICE = "--resample brings it onto the reference's grid"
CANNOT = "--resample cannot: it needs two places in space, which PNG and TIFF do not have, in as many dimensions"


@dataclass(frozen=True)
class Pair:
    """Two segmentations on one grid.

    Args:
        reference, prediction: uint16, `(z, y, x)`, or `(y, x)` where the image has one slice only.
        spacing_mm: along each axis of the arrays; 1 in formats without spacing, such as PNG.
        resampled: whether the prediction was stored on another grid.
    """

    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]
    resampled: bool = False


def read_pair(
    reference: Path, prediction: Path, reader_class: type, labels: Labels, *, resample: bool = False
) -> tuple[Pair | None, list[str]]:
    """Read both files.

    A single slice becomes a 2D image: in 3D all of its voxels would be surface.

    Args:
        resample: bring a prediction that lies on another grid onto the reference's, instead of calling it a problem.

    Returns:
        The pair, and what is wrong with it. There is no pair where anything is wrong.
    """
    problems: list[str] = []
    reader = reader_class()
    read: list[PlacedArray] = []
    for path, known in ((reference, labels.known), (prediction, [v for v in labels.known if v != labels.ignore])):
        try:
            label_map = read_label_map(path, reader)
        except ValueError as error:
            problems.append(f"{path} {error}")
            continue
        unknown = np.setdiff1d(np.flatnonzero(np.bincount(label_map.values.ravel())), known)
        if len(unknown):
            problems.append(f"{path} holds {_list(unknown)}, which dataset.json does not name for it: {_list(known)}")
        read.append(label_map)
    if len(read) < 2:
        return None, problems
    of_reference, of_prediction = read
    difference = grid_problem(of_prediction, of_reference, "its reference", reference)
    can_be_resampled = None not in (of_reference.grid, of_prediction.grid) and (
        of_reference.grid.dimensions == of_prediction.grid.dimensions
    )
    if difference and not (resample and can_be_resampled):
        advice = f". {ADVICE}" if can_be_resampled else f". {CANNOT}" * resample
        problems.append(f"{prediction} {difference}{advice}")
    if problems:
        return None, problems
    predicted, spacing = of_prediction.values, of_reference.spacing_mm
    if difference:
        predicted = resampled(predicted, of_prediction.grid, of_reference.grid)
    if len(of_reference.values) == 1:
        return Pair(of_reference.values[0], predicted[0], spacing[1:], bool(difference)), []
    return Pair(of_reference.values, predicted, spacing, bool(difference)), []


def _list(values) -> str:
    return ", ".join(str(int(value)) for value in values)
