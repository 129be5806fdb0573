"""Where an image's voxels lie: whether two images share a grid, and labels brought from one grid onto another."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_dsvm.files.text import by

# Two programs round a header differently: NIfTI stores single precision and an orientation as a quaternion, others
# decimals. The first voxel is stored directly; rounding of spacing and direction adds up towards the last one, where it
# may not reach half a voxel: then the nearest neighbour of every voxel is its counterpart.
RELATIVE_SPACING = 1e-3
DIRECTION_COSINE = 1e-3
FIRST_VOXEL = 0.01  # voxels
ANY_VOXEL = 0.5  # voxels
_TOWARDS = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))  # -x, x; -y, y; -z, z


@dataclass(frozen=True)
class Grid:
    """The voxel centres of an image.

    Args:
        size: voxels along x, y, z as they are stored; z is 1 in a 2D image.
        affine: `(4, 4)`, from voxel indices x, y, z to millimetres towards left, posterior and superior.
        dimensions: 2 or 3.
    """

    size: tuple[int, int, int]
    affine: np.ndarray
    dimensions: int = 3

    @property
    def spacing(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def origin(self) -> np.ndarray:
        return self.affine[:3, 3]

    @property
    def direction(self) -> np.ndarray:
        """Unit vectors of the axes, in columns."""
        return self.affine[:3, :3] / self.spacing

    @property
    def orientation(self) -> str:
        """Where the axes go, e.g. `left, posterior, superior`: the nearest of the patient's directions."""
        axes = self.direction.T[: self.dimensions]
        return ", ".join(_TOWARDS[i][int(axis[i] > 0)] for axis in axes for i in [np.abs(axis).argmax()])

    def __str__(self) -> str:
        n = self.dimensions
        oblique = np.abs(self.direction).max(axis=0).min() < 1 - 1e-6
        cosines = f" (direction {', '.join(f'{c:.6g}' for c in self.direction[:n, :n].ravel())})" if oblique else ""
        return (
            f"{by(self.size[:n])} voxels of {by(self.spacing[:n])} mm, "
            f"origin ({', '.join(f'{o:.7g}' for o in self.origin[:n])}) mm, axes towards {self.orientation}{cosines}"
        )


def grid_of_image(image: sitk.Image) -> Grid:
    """Raises:
    ValueError: a spacing is 0, or something is not finite.
    """
    return _grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


@dataclass(frozen=True)
class PlacedArray:
    """A channel that nnU-Net's reader has returned, and where it lies.

    Args:
        values: `(z, y, x)`, reoriented if that reader reorients.
        spacing_mm: along the axes of `values`; 1 in formats without spacing.
        grid: None where the format has no place in space, such as PNG.
    """

    values: np.ndarray
    spacing_mm: tuple[float, float, float]
    grid: Grid | None


def placed(values: np.ndarray, properties: Mapping[str, Any]) -> PlacedArray:
    """
    Args:
        values: `(z, y, x)`.
        properties: what the reader returned beside it.

    Raises:
        ValueError: as `grid_of_image`.
    """
    z, y, x = (float(length) for length in properties["spacing"])
    return PlacedArray(values, (z, y, x), _grid_as_read(properties, values.shape))


def _grid_as_read(properties: Mapping[str, Any], shape: tuple[int, ...]) -> Grid | None:
    z, y, x = shape
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        if len(stuff["spacing"]) == 2 and z > 1:
            raise ValueError(f"it has {x} values a pixel, expected 1")
        return _grid((x, y, z), stuff["spacing"], stuff["origin"], stuff["direction"])
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), float)
        return _checked(Grid((x, y, z), np.diag([-1.0, -1, 1, 1]) @ affine))  # nibabel's x and y go right and anterior
    return None


def grid_differences(grid: Grid, reference: Grid) -> list[str]:
    """In what two grids differ by more than rounding; nothing where they are one."""
    if grid.dimensions != reference.dimensions:
        return ["number of dimensions"]
    found = []
    if grid.size != reference.size:
        found.append("size")
    if not np.allclose(grid.spacing, reference.spacing, rtol=RELATIVE_SPACING, atol=0):
        found.append("spacing")
    to_voxels = np.linalg.inv(reference.affine)
    if np.abs(to_voxels[:3, :3] @ (grid.origin - reference.origin)).max() > FIRST_VOXEL:
        found.append("origin")
    if np.abs(grid.direction - reference.direction).max() > DIRECTION_COSINE:
        found.append("direction")
    if not found:
        corners = np.stack(np.meshgrid(*((0, n - 1) for n in grid.size), [1])).reshape(4, -1)
        farthest = np.abs(to_voxels @ grid.affine @ corners - corners).max()
        if farthest > ANY_VOXEL:
            found.append(f"place of the last voxels, by {farthest:.2g} voxels")
    return found


def grid_problem(array: PlacedArray, other: PlacedArray, what: str, other_path: Path) -> str | None:
    """How the grid of an array differs from another's; the text goes on after the first one's file name.

    Args:
        what: the other one, e.g. `its reference`.
    """
    if array.grid and other.grid:
        differ = grid_differences(array.grid, other.grid)
        if not differ:
            return None
        return (
            f"lies on another grid than {what} {other_path}: they differ in {' and '.join(differ)}. "
            f"It has {array.grid}; {what} has {other.grid}"
        )
    if array.values.shape != other.values.shape:
        return f"has shape {by(array.values.shape)}, {what} {other_path} {by(other.values.shape)}"
    if not np.allclose(array.spacing_mm, other.spacing_mm, rtol=RELATIVE_SPACING, atol=0):
        return f"has spacing {by(array.spacing_mm)} mm, {what} {other_path} {by(other.spacing_mm)} mm"
    return None


def resampled(labels: np.ndarray, grid: Grid, onto: Grid) -> np.ndarray:
    """Labels at the voxel centres of another grid: the nearest neighbour, 0 outside.

    Args:
        labels: `(z, y, x)` on `grid`.

    Returns:
        The same type, `(z, y, x)` on `onto`.
    """
    between = np.linalg.inv(grid.affine) @ onto.affine
    # A voxel centre may lie half-way between two others: the offset lets all of them fall to the same side.
    offset = between[:3, 3][::-1] + 1e-6
    # "grid-constant": a label reaches half a voxel around its centre at the border too.
    return ndimage.affine_transform(
        labels, between[:3, :3][::-1, ::-1], offset, onto.size[::-1], order=0, mode="grid-constant", cval=0
    )


def _grid(size, spacing, origin, direction) -> Grid:
    """From ITK's description of 2, 3 or (of which the last is left out) 4 dimensions."""
    n = min(len(spacing), 3)
    affine = np.eye(4)
    affine[:n, :n] = np.reshape(direction, (len(spacing), -1))[:n, :n] * np.asarray(spacing[:n])
    affine[:n, 3] = origin[:n]
    return _checked(Grid((*size[:n], 1)[:3], affine, n))


def _checked(grid: Grid) -> Grid:
    if not np.isfinite(grid.affine).all() or not grid.spacing.all() or abs(np.linalg.det(grid.direction)) < 1e-6:
        raise ValueError(f"its header gives no grid: from voxels to mm by {grid.affine[:3].tolist()}")
    return grid
