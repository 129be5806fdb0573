"""Read a reference and its prediction with nnU-Net's reader, and check that they can be compared."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_dsvm.evaluation.labels import Labels
from nnunetv2_dsvm.image_grid import PlacedArray, grid_problem, placed, resampled
from nnunetv2_dsvm.label_values import LARGEST_LABEL, no_labels
from nnunetv2_dsvm.nifti_files import check_whole, is_nifti

ADVICE = "--resample brings it onto the reference's grid"


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


def read_label_map(path: Path, reader: Any) -> PlacedArray:
    """Read a label map as nnU-Net does, and say what it keeps to itself.

    Args:
        reader: nnU-Net's, an instance.

    Returns:
        Labels in uint16.

    Raises:
        ValueError: the text goes on after the file's name: it cannot be read, has several channels, or values that are
            no labels.
    """
    try:
        not_numbers = check_whole(path) if is_nifti(path) else {}
        values, properties = reader.read_seg(str(path))
        read = placed(values[0], properties)
    except Exception as error:  # whatever the reader's library raises
        text = str(error) or type(error).__name__
        # ITK's messages begin with places in its source code.
        raise ValueError(f"cannot be read: {text.partition('ITK ERROR: ')[2] or text}") from error
    if len(values) != 1:
        raise ValueError(f"has {len(values)} channels, expected labels in one")
    with np.errstate(invalid="ignore"):
        labels = values[0].astype(np.uint16)
    if not_numbers or not np.array_equal(labels, values[0]):
        wrong = no_labels(values[0], not_numbers)
        raise ValueError(f"holds values that are no labels ({wrong}): expected integers from 0 to {LARGEST_LABEL}")
    return replace(read, values=labels)


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
        problems.append(f"{prediction} {difference}" + (f". {ADVICE}" if can_be_resampled else ""))
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
