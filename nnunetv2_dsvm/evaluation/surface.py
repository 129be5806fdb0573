"""Distances between the surfaces of two masks: HD95, average symmetric surface distance, normalised surface Dice.

A surface is the set of a mask's voxels that have a face neighbour outside the mask (erosion with connectivity 1, as in
medpy); beyond the image lies background. A distance is Euclidean, between voxel centres. Distances come from scipy's
KD-tree, in double precision; NOTES.md compares it with other libraries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

ROUNDING_MM = 1e-6  # spacings are stored in single precision: 0.8 mm is read as 0.80000001


@dataclass(frozen=True)
class SurfaceDistances:
    """Every surface voxel's distance to the other surface, in the unit of the spacing.

    Args:
        of_reference: `(n,)`, from the reference's surface to the prediction's; infinite where the latter has none.
        of_prediction: `(m,)`, the other way round.
    """

    of_reference: np.ndarray
    of_prediction: np.ndarray

    def _both(self) -> np.ndarray:
        """Both directions' distances; none where one of the surfaces is empty."""
        if not (len(self.of_reference) and len(self.of_prediction)):
            return np.empty(0)
        return np.concatenate([self.of_reference, self.of_prediction])

    def hd95(self) -> float:
        """95th percentile (linear interpolation) of both directions' distances together: medpy's `hd95`.

        NaN where a surface is empty.
        """
        distances = self._both()
        return float(np.percentile(distances, 95)) if len(distances) else math.nan

    def assd(self) -> float:
        """Mean of both directions' distances together, the average symmetric surface distance: medpy's `assd`.

        It is the ASSD of Metrics Reloaded (Maier-Hein et al. 2024), whose MASD is the mean of the two directions'
        means. NaN where a surface is empty.
        """
        distances = self._both()
        return float(distances.mean()) if len(distances) else math.nan

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice (Nikolov et al. 2021): the part of both surfaces within `tolerance` of the other.

        Each surface voxel counts as one element, as in MONAI; DeepMind's surface-distance weights elements between
        voxels by their area, and so gives other values. 0 where one surface is empty, NaN where both are.
        """
        total = len(self.of_reference) + len(self.of_prediction)
        if not total:
            return math.nan
        limit = tolerance + ROUNDING_MM
        within = np.count_nonzero(self.of_reference <= limit) + np.count_nonzero(self.of_prediction <= limit)
        return within / total


def surface_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], ignored: np.ndarray | None = None
) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Args:
        reference, prediction: bool, of one shape, 2D or 3D.
        spacing: distance of neighbouring voxels along each axis; its unit is the result's.
        ignored: bool, of the same shape. Such voxels belong to neither mask, and a border between a mask and them is no
            surface, since nobody knows what lies there.
    """
    if ignored is not None:
        reference, prediction = reference & ~ignored, prediction & ~ignored
    on_reference = _surface(reference, ignored)
    on_prediction = _surface(prediction, ignored)
    points_r, points_p = np.argwhere(on_reference), np.argwhere(on_prediction)
    return SurfaceDistances(
        of_reference=_distances(points_r, points_p, on_prediction, spacing),
        of_prediction=_distances(points_p, points_r, on_reference, spacing),
    )


def _surface(mask: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    """The mask's voxels with a face neighbour that is neither in the mask nor ignored, or at the image's border."""
    solid = mask if ignored is None else mask | ignored
    inner = mask.copy()
    for axis in range(mask.ndim):
        solid_along, inner_along = np.moveaxis(solid, axis, 0), np.moveaxis(inner, axis, 0)
        inner_along[1:] &= solid_along[:-1]
        inner_along[:-1] &= solid_along[1:]
        inner_along[0] = inner_along[-1] = False
    return mask & ~inner


def _distances(from_: np.ndarray, to: np.ndarray, on_target: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance of each voxel in `from_` `(n, d)` to the nearest in `to` `(m, d)`, whose mask is `on_target`."""
    if not len(to):
        return np.full(len(from_), math.inf)
    distances = np.zeros(len(from_))
    apart = np.flatnonzero(~on_target[tuple(from_.T)])  # a voxel on both surfaces needs no search
    if len(apart):
        # Balanced trees take up to eight times as long where many voxels are about equally far, as in a ball in a ball.
        tree = cKDTree(to * np.asarray(spacing), balanced_tree=False, compact_nodes=False)
        distances[apart] = tree.query(from_[apart] * np.asarray(spacing))[0]
    return distances
