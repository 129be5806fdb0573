"""Outlines of masks as closed polygons without holes of their own, as an RTSTRUCT holds them."""

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """One polygon for each part of a mask whose pixels meet at edges.

    It runs half-way between pixels inside and outside, so that the centres of exactly the mask's pixels lie in it.
    Holes are joined to it by channels of no width, the keyhole technique of DICOM PS3.3 C.8.8.6.3.

    Args:
        mask: `(y, x)`.

    Returns:
        Each `(points, 2)`, x and y in pixels; the last point is not the first one again.
    """
    parts, _ = ndimage.label(mask)
    found = []
    for number, place in enumerate(ndimage.find_objects(parts), start=1):
        part = np.pad(parts[place] == number, 1)
        rings = [ring[:-1] for ring in find_contours(part.astype(np.uint8), 0.5, fully_connected="low")]
        outer, *holes = sorted(map(_corners, rings), key=lambda ring: -abs(_area(ring)))
        offset = np.array([place[0].start - 1, place[1].start - 1])
        found.append((_joined(outer, holes) + offset)[:, ::-1])
    return found


def _area(ring: np.ndarray) -> float:
    y, x = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _corners(ring: np.ndarray) -> np.ndarray:
    """The points at which a ring turns."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return ring[turns]


def _joined(outer: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """The outer ring and its holes, from the left, each entered and left by the nearest point of what is joined."""
    joined = outer
    for hole in sorted(holes, key=lambda ring: float(ring[:, 1].min())):
        hole = np.roll(hole, -int(hole[:, 1].argmin()), axis=0)
        nearest = int(((joined - hole[0]) ** 2).sum(axis=1).argmin())
        joined = np.concatenate([joined[: nearest + 1], hole, hole[:1], joined[nearest:]])
    return joined
