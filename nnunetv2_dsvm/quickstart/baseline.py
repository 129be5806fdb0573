"""A trivial baseline: one training slice's labels, stretched onto the body in every slice of the test image.

No learning takes part. Patients lie in a scanner alike, so that this already scores well for large organs: a network
that does not beat it clearly has learnt nothing worth having.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_dsvm.datasets.raw_cases import Case
from nnunetv2_dsvm.images.image_grid import grid_differences, grid_of_image
from nnunetv2_dsvm.images.label_values import no_labels

BODY_THRESHOLD_HU = -300
SOFT_TISSUE_WINDOW_HU = (-160, 240)
GRID = (96, 128)  # rows, columns of the body's bounding box when slices are compared
SMALLEST_LIMB_MM = 9  # opening with this radius takes off the table, and arms that touch the body


class Box(NamedTuple):
    """Rows and columns (first, last + 1) of a body in a slice."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def around(cls, boxes: "Sequence[Box]") -> "Box":
        """The smallest box that holds all of `boxes`."""
        tops, bottoms, lefts, rights = zip(*boxes, strict=True)
        return cls(min(tops), max(bottoms), min(lefts), max(rights))


@dataclass(frozen=True)
class CopiedSlice:
    """A baseline's segmentation and where it came from."""

    segmentation: sitk.Image
    case_name: str
    slice_index: int


def copy_most_similar_slice(training: Iterable[Case], test: Case) -> CopiedSlice:
    """Copy the training slice whose image correlates best with the test slices, on average; uses no test label.

    Args:
        training: cases in one orientation, axial slices.
        test: the case to segment; its labels are not looked at.

    Raises:
        ValueError: a case's labels lie on another grid than its image or are no integers, or a training case lies in
            another orientation than the test case.
    """
    library, stack = _library(training, test), _Stack(test)
    images = _normalised(np.stack([entry.image for entry in library]))
    return _paste(library[int((_normalised(stack.images) @ images.T).mean(axis=0).argmax())], stack, test)


def copy_best_slice(training: Iterable[Case], test: Case) -> CopiedSlice:
    """Copy the training slice that gives the best mean Dice against the test labels: no choice of slice does better.

    It looks at the answer, and so bounds from above what copying one slice can reach.

    Raises:
        ValueError: as above.
    """
    library, stack = _library(training, test), _Stack(test)
    truth = np.stack([_fit(s, box, GRID, order=0) for s, box in zip(stack.labels, stack.boxes, strict=True)])
    values = [value for value in np.unique(truth) if value != 0]
    in_truth = {value: truth == value for value in values}

    def mean_dice(entry: _Slice) -> float:
        scores = []
        for value in values:
            copied = entry.label == value
            overlap = (in_truth[value] & copied).sum()
            scores.append(2 * overlap / (in_truth[value].sum() + copied.sum() * len(truth)))
        return float(np.mean(scores))

    return _paste(max(library, key=mean_dice), stack, test)


@dataclass(frozen=True)
class _Slice:
    """A training slice: image and labels on GRID, and the labels as they are stored."""

    case_name: str
    index: int
    image: np.ndarray
    label: np.ndarray
    stored_label: np.ndarray
    box: Box


class _Stack:
    """A case's slices: stored labels, body boxes and images on GRID."""

    def __init__(self, case: Case) -> None:
        of_image, of_labels = grid_of_image(case.image), grid_of_image(case.label)
        if differ := grid_differences(of_labels, of_image):
            raise ValueError(
                f"the labels of {case.name} lie on another grid than its image: they differ in {' and '.join(differ)}. "
                f"They have {of_labels}; the image has {of_image}"
            )
        voxels = sitk.GetArrayFromImage(case.image).astype(np.float32)
        self.labels = sitk.GetArrayFromImage(case.label)
        if wrong := no_labels(self.labels):
            raise ValueError(f"the labels of {case.name} hold values that are no labels: {wrong}")
        self.boxes = body_boxes(voxels, spacing_mm=case.image.GetSpacing()[1])
        windowed = np.clip(voxels, *SOFT_TISSUE_WINDOW_HU)
        self.images = np.stack([_fit(s, box, GRID, order=1) for s, box in zip(windowed, self.boxes, strict=True)])


def body_boxes(voxels: np.ndarray, spacing_mm: float) -> list[Box]:
    """The bounding box of the largest body in each axial slice of `voxels` (z, y, x; HU); of all of it where none is.

    Args:
        spacing_mm: of the pixels in a slice.
    """
    iterations = max(1, round(SMALLEST_LIMB_MM / 2 / spacing_mm))
    opened = np.stack([ndimage.binary_opening(s, iterations=iterations) for s in voxels > BODY_THRESHOLD_HU])
    components, count = ndimage.label(opened)
    body = opened
    if count > 1:
        sizes = ndimage.sum_labels(opened, components, range(1, count + 1))
        body = components == 1 + int(np.argmax(sizes))
    boxes = []
    for s in body:
        rows, columns = np.flatnonzero(s.any(axis=1)), np.flatnonzero(s.any(axis=0))
        if len(rows) == 0:
            rows, columns = (np.arange(n) for n in s.shape)
        boxes.append(Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1))
    return boxes


def _library(training: Iterable[Case], test: Case) -> list[_Slice]:
    library = []
    for case in training:
        axes, of_test = (grid_of_image(image).orientation for image in (case.image, test.image))
        if axes != of_test:
            raise ValueError(f"the axes of {case.name} go towards {axes}, those of {test.name} towards {of_test}")
        stack = _Stack(case)
        for index, (label, box) in enumerate(zip(stack.labels, stack.boxes, strict=True)):
            fitted = _fit(label, box, GRID, order=0)
            library.append(_Slice(case.name, index, stack.images[index], fitted, label, box))
    return library


def _paste(source: _Slice, stack: _Stack, test: Case) -> CopiedSlice:
    segmentation = np.zeros_like(stack.labels)
    for s, box in zip(segmentation, stack.boxes, strict=True):
        shape = (box.bottom - box.top, box.right - box.left)
        s[box.top : box.bottom, box.left : box.right] = _fit(source.stored_label, source.box, shape, order=0)
    image = sitk.GetImageFromArray(segmentation)
    image.CopyInformation(test.image)
    return CopiedSlice(image, source.case_name, source.index)


def _fit(pixels: np.ndarray, box: Box, shape: tuple[int, int], order: int) -> np.ndarray:
    """The part of a slice inside `box`, resampled to `shape` by splines of `order`."""
    rows, columns = (
        first + (np.arange(n) + 0.5) * (last - first) / n - 0.5
        for first, last, n in ((box.top, box.bottom, shape[0]), (box.left, box.right, shape[1]))
    )
    return ndimage.map_coordinates(pixels, np.meshgrid(rows, columns, indexing="ij"), order=order, mode="nearest")


def _normalised(images: np.ndarray) -> np.ndarray:
    """Images `(n, …)` as rows of mean 0 and length 1, so that a product of two is their correlation."""
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
