"""Read a reference and its prediction with nnU-Net's reader, and check that they can be compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_dsvm.images.image_grid import PlacedArray, grid_problem, resampled
from nnunetv2_dsvm.images.label_maps import read_label_map
from nnunetv2_dsvm.nnunet.labels import Labels

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
            read.append(read_label_map(path, reader))
        except ValueError as error:
            problems.append(f"{path} {error}")
            continue
        problems += _unknown_labels(path, read[-1].values, known)
    if len(read) < 2:
        return None, problems
    of_reference, of_prediction = read
    difference = grid_problem(of_prediction, of_reference, "its reference", reference)
    predicted, spacing = of_prediction.values, of_reference.spacing_mm
    here, there = of_prediction.grid, of_reference.grid
    if difference:
        if here is None or there is None or here.dimensions != there.dimensions:
            problems.append(f"{prediction} {difference}" + f". {CANNOT}" * resample)
        elif not resample:
            problems.append(f"{prediction} {difference}. {ADVICE}")
        elif not problems:
            predicted = resampled(predicted, here, there)
    if problems:
        return None, problems
    if len(of_reference.values) == 1:
        return Pair(of_reference.values[0], predicted[0], spacing[1:], bool(difference)), []
    return Pair(of_reference.values, predicted, spacing, bool(difference)), []


def _unknown_labels(path: Path, values: np.ndarray, known: Sequence[int]) -> list[str]:
    unknown = np.setdiff1d(np.flatnonzero(np.bincount(values.ravel())), known)
    if not len(unknown):
        return []
    return [f"{path} holds {_list(unknown)}, which dataset.json does not name for it: {_list(known)}"]


def _list(values: Iterable[int]) -> str:
    return ", ".join(str(int(value)) for value in values)
