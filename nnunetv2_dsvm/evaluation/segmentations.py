"""Read a reference and its prediction with nnU-Net's reader, and check that they can be compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_dsvm.evaluation.labels import Labels
from nnunetv2_dsvm.nifti_files import check_whole, is_nifti

LARGEST_VALUE = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Pair:
    """Two segmentations on one grid.

    Args:
        reference, prediction: uint16, `(z, y, x)`, or `(y, x)` where the image has one slice only.
        spacing_mm: along each axis of the arrays; 1 in formats without spacing, such as PNG.
    """

    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]


def read_pair(reference: Path, prediction: Path, reader_class: type, labels: Labels) -> tuple[Pair | None, list[str]]:
    """Read both files.

    A single slice becomes a 2D image: in 3D all of its voxels would be surface.

    Returns:
        The pair, and what is wrong with it. There is no pair where anything is wrong.
    """
    problems: list[str] = []
    reader = reader_class()
    read = []
    for path, known in ((reference, labels.known), (prediction, [v for v in labels.known if v != labels.ignore])):
        try:
            if is_nifti(path):
                check_whole(path)
            values, properties = reader.read_seg(str(path))
        except Exception as error:  # whatever the reader's library raises
            problems.append(f"{path} cannot be read: {error}")
            continue
        if len(values) != 1:
            problems.append(f"{path} has {len(values)} channels, expected labels in one")
            continue
        segmentation, problem = _as_labels(values[0], known)
        if problem:
            problems.append(f"{path} {problem}")
        read.append((segmentation, properties))
    if len(read) == 2:
        problems += _grid_problems(reference, prediction, read)
    if problems:
        return None, problems
    (of_reference, properties), (of_prediction, _) = read
    spacing = tuple(float(s) for s in properties["spacing"])
    if len(of_reference) == 1:
        return Pair(of_reference[0], of_prediction[0], spacing[1:]), []
    return Pair(of_reference, of_prediction, spacing), []


def _as_labels(values: np.ndarray, known) -> tuple[np.ndarray, str | None]:
    """Integers, and what is wrong with them."""
    with np.errstate(invalid="ignore"):
        segmentation = values.astype(np.uint16)
    if not np.array_equal(segmentation, values):
        return segmentation, f"holds values that are no labels: expected integers from 0 to {LARGEST_VALUE}"
    present = np.flatnonzero(np.bincount(segmentation.ravel()))
    unknown = np.setdiff1d(present, known)
    if len(unknown):
        return segmentation, f"holds {_list(unknown)}, which dataset.json does not name for it: {_list(known)}"
    return segmentation, None


def _grid_problems(reference: Path, prediction: Path, read: list[tuple[np.ndarray, dict[str, Any]]]) -> list[str]:
    (a, properties_a), (b, properties_b) = read
    if a.shape != b.shape:
        return [f"{prediction} has shape {_shape(b.shape)}, its reference {reference} {_shape(a.shape)}"]
    spacing_a, spacing_b = (np.asarray(p["spacing"], dtype=float) for p in (properties_a, properties_b))
    if not np.allclose(spacing_a, spacing_b, rtol=1e-3, atol=0):
        spacings = f"spacing {_spacing(spacing_b)} mm, its reference {reference} {_spacing(spacing_a)} mm"
        return [f"{prediction} has {spacings}"]
    return []


def _list(values) -> str:
    return ", ".join(str(int(value)) for value in values)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _spacing(spacing: np.ndarray) -> str:
    return "×".join(f"{value:g}" for value in spacing)
