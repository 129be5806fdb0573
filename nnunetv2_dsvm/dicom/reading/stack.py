"""Slices in the order in which they lie behind each other, and how far they are from a regular stack."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_dsvm.dicom.reading.frames import Frame


@dataclass(frozen=True)
class Stack:
    """Parallel slices, ascending along their normal: the order in which ITK stacks a series too.

    Attributes:
        frames: the slices.
        axes: `(3, 3)`, in rows the unit vectors along a row, along a column, and the normal.
        pixel_spacing: between rows and between columns, mm.
        distances: `(n,)`, of each slice from the first along the normal, mm.
        shifts: `(n, 2)`, of each slice's first voxel from the first slice's along a row and along a column, mm.
    """

    frames: Sequence[Frame]
    axes: np.ndarray
    pixel_spacing: tuple[float, float]
    distances: np.ndarray
    shifts: np.ndarray

    @property
    def origin(self) -> np.ndarray:
        position = self.frames[0].position
        assert position is not None  # a stack is of slices with a place
        return position

    @property
    def gaps(self) -> np.ndarray:
        """From each slice to the next, mm, `(n - 1,)`."""
        return np.diff(self.distances)

    @property
    def spacing(self) -> float:
        """Between slices, mm: the mean; of a single one, what it states, else 0."""
        if len(self.frames) == 1:
            return self.frames[0].thickness or 0.0
        return float(self.distances[-1] / (len(self.frames) - 1))

    @property
    def shift_in_pixels(self) -> np.ndarray:
        """`(n, 2)`: along x, columns, and along y, rows."""
        return self.shifts / self.pixel_spacing[::-1]

    @property
    def tilt_degrees(self) -> float:
        """Between the slices' normal and the line through their first voxels."""
        return float(np.degrees(np.arctan2(np.linalg.norm(self.shifts[-1]), self.distances[-1])))


def axes_of(orientation: np.ndarray) -> np.ndarray:
    """Unit vectors, at right angles in spite of rounding: along a row, along a column, and their normal, `(3, 3)`.

    Raises:
        ValueError: the two directions are none, or far from a right angle.
    """
    row, column = np.reshape(orientation, (2, 3))
    lengths = np.linalg.norm([row, column], axis=1)
    if (np.abs(lengths - 1) > 0.01).any() or abs(row @ column) > 0.01:
        raise ValueError(f"image orientation {', '.join(f'{cosine:g}' for cosine in orientation)}")
    row = row / lengths[0]
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    return np.stack([row, np.cross(normal, row), normal])


def stacked(frames: Sequence[Frame]) -> Stack:
    """
    Args:
        frames: parallel slices, each with a position, orientation and pixel spacing.

    Raises:
        ValueError: as `axes_of`.
    """
    first = frames[0]
    assert first.orientation is not None
    assert first.pixel_spacing is not None
    axes = axes_of(first.orientation)
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    order = np.argsort(positions @ axes[2], kind="stable")
    along = (positions[order] - positions[order[0]]) @ axes.T
    return Stack(
        frames=[frames[i] for i in order],
        axes=axes,
        pixel_spacing=first.pixel_spacing,
        distances=along[:, 2],
        shifts=along[:, :2],
    )
