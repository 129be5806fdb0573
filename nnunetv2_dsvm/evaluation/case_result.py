"""Measure one case: every label's values by a protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunetv2_dsvm.evaluation.confusion import Counts, counts_of, joint_histogram
from nnunetv2_dsvm.evaluation.protocols import Protocol
from nnunetv2_dsvm.evaluation.segmentations import Pair
from nnunetv2_dsvm.evaluation.surface import SurfaceDistances, surface_distances
from nnunetv2_dsvm.nnunet.labels import Labels

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class EvaluatedCase:
    """A reference and its prediction."""

    name: str
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class CaseResult:
    """What was measured: counts and values (NaN: undefined) per label name.

    Args:
        resampled: whether the prediction was first brought onto the reference's grid.
    """

    case: EvaluatedCase
    counts: Mapping[str, Counts]
    values: Mapping[str, Mapping[str, float]]
    resampled: bool = False


def measure_case(
    case: EvaluatedCase, pair: Pair, labels: Labels, protocol: Protocol, tolerance_mm: float
) -> CaseResult:
    """Measure every label of a pair that `read_pair` has checked."""
    histogram = joint_histogram(pair.reference, pair.prediction, labels.known)
    regions = labels.foreground
    counts = {name: counts_of(histogram, labels.known, region, labels.ignore) for name, region in regions.items()}
    distances: dict[str, SurfaceDistances | None] = dict.fromkeys(regions)
    if protocol.needs_distances:
        boxes = _Boxes(pair, labels)
        distances = {name: _distances(pair, region, boxes, labels.ignore, protocol) for name, region in regions.items()}
    values = {}
    for name in regions:
        measured = protocol.measure(counts[name], distances[name], tolerance_mm)
        values[name] = dict(zip(protocol.metrics, measured, strict=True))
    return CaseResult(case, counts, values, pair.resampled)


class _Boxes:
    """Where each label lies in either segmentation, found in one pass over each."""

    def __init__(self, pair: Pair, labels: Labels) -> None:
        self.shape = pair.reference.shape
        largest = labels.known[-1]
        self._of = [ndimage.find_objects(s, largest) for s in (pair.reference, pair.prediction)]

    def around(self, region: tuple[int, ...]) -> Slices:
        """The smallest box around a region in both segmentations, and one voxel more where the image has one.

        Distances in the box are those in the image: it holds both surfaces. The margin shows the neighbours of a mask's
        outermost voxels, of which some may be ignored.
        """
        if 0 in region:
            return tuple(slice(0, size) for size in self.shape)
        found = [of[label - 1] for of in self._of for label in region if of[label - 1] is not None]
        if not found:
            return (slice(0, 1),) * len(self.shape)  # no surface there either
        return tuple(
            slice(max(0, min(s.start for s in along) - 1), min(size, max(s.stop for s in along) + 1))
            for size, along in zip(self.shape, zip(*found, strict=True), strict=True)
        )


def _distances(
    pair: Pair, region: tuple[int, ...], boxes: _Boxes, ignore: int | None, protocol: Protocol
) -> SurfaceDistances:
    box = boxes.around(region)
    reference, prediction = pair.reference[box], pair.prediction[box]
    spacing = (1.0,) * reference.ndim if protocol.in_voxels else pair.spacing_mm
    return surface_distances(
        _mask(reference, region),
        _mask(prediction, region),
        spacing,
        None if ignore is None else reference == ignore,
    )


def _mask(segmentation: np.ndarray, region: tuple[int, ...]) -> np.ndarray:
    mask = segmentation == region[0]
    for value in region[1:]:
        mask |= segmentation == value
    return mask
