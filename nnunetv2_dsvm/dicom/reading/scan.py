"""The voxels of a series and where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from scipy import ndimage

from nnunetv2_dsvm.dicom.reading.checks import SHIFT_PIXELS, check_stack, check_still
from nnunetv2_dsvm.dicom.reading.frames import Frame
from nnunetv2_dsvm.dicom.reading.series import Series
from nnunetv2_dsvm.dicom.reading.stack import Stack
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.images.image_grid import Grid


@dataclass(frozen=True)
class Straightening:
    """Slices of a tilted gantry, moved within their planes until they lie straight behind each other.

    Attributes:
        shifts: `(z, 2)`, of each slice in the straight volume along x and y, in pixels from 0.
        size: rows and columns of a slice as it was scanned.
    """

    shifts: np.ndarray
    size: tuple[int, int]

    def straight(self, values: np.ndarray) -> np.ndarray:
        """Slices `(z, y, x)` as they were scanned, interpolated in a straight volume; the lowest value around them."""
        lowest = values.min()
        rows, columns = np.ceil(self.shifts.max(axis=0) - 1e-6).astype(int)[::-1] + self.size
        moved = [
            ndimage.affine_transform(of, [1, 1], -xy[::-1], (rows, columns), order=1, mode="constant", cval=lowest)
            for of, xy in zip(values, self.shifts, strict=True)
        ]
        return np.stack(moved)

    def as_scanned(self, labels: np.ndarray) -> np.ndarray:
        """Labels `(z, y, x)` of the straight volume on the slices as they were scanned: the nearest neighbour."""
        starts = np.round(self.shifts).astype(int)
        rows, columns = self.size
        return np.stack([of[y : y + rows, x : x + columns] for of, (x, y) in zip(labels, starts, strict=True)])


@dataclass(frozen=True)
class Scan:
    """What is segmented.

    Attributes:
        series: where it comes from.
        frames: its slices along z.
        values: `(channels, z, y, x)`; HU or the like in fp32, red, green and blue of a still in uint8.
        grid: of the values.
        stack: the slices as they were scanned; None of a still.
        straightening: between these and the values; None where they are the same.
    """

    series: Series
    frames: Sequence[Frame]
    values: np.ndarray
    grid: Grid
    stack: Stack | None
    straightening: Straightening | None = None

    def image(self, values: np.ndarray) -> sitk.Image:
        """An array `(z, y, x)` on the grid."""
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(self.grid.spacing.tolist())
        image.SetOrigin(self.grid.origin.tolist())
        image.SetDirection(self.grid.direction.ravel().tolist())
        return image

    def as_scanned(self, labels: np.ndarray) -> np.ndarray:
        """Labels of the values' shape `(z, y, x)` on the slices of the series."""
        return labels if self.straightening is None else self.straightening.as_scanned(labels)


def read_scan(series: Series, *, resample: bool) -> Scan:
    """
    Args:
        series: CT, MR or stills.
        resample: whether a tilted gantry is straightened instead of refused.

    Raises:
        UserError: the series is no regular volume, or its pixels cannot be read.
    """
    if series.kind == "still":
        frame = check_still(series)
        rows, columns = frame.pixel_spacing or (1.0, 1.0)
        grid = Grid((frame.size[1], frame.size[0], 1), np.diag([columns, rows, 1.0, 1.0]))
        return Scan(series, [frame], _still(series), grid, None)
    stack = check_stack(series, resample=resample)
    values, straightening = _slices(series, stack.frames), None
    origin = stack.origin
    if np.abs(stack.shift_in_pixels).max() > SHIFT_PIXELS:
        before = np.floor(stack.shift_in_pixels.min(axis=0) + 1e-6)  # pixels that the straight volume begins earlier
        straightening = Straightening(stack.shift_in_pixels - before, stack.frames[0].size)
        values = straightening.straight(values)
        origin = origin + (before * stack.pixel_spacing[::-1]) @ stack.axes[:2]
    affine = np.eye(4)
    affine[:3, :3] = stack.axes.T * [stack.pixel_spacing[1], stack.pixel_spacing[0], stack.spacing]
    affine[:3, 3] = origin
    depth, rows, columns = values.shape
    return Scan(series, stack.frames, values[None], Grid((columns, rows, depth), affine), stack, straightening)


def _slices(series: Series, frames: Sequence[Frame]) -> np.ndarray:
    """`(z, y, x)` in fp32, rescaled to the modality's values."""
    values = np.empty((len(frames), *frames[0].size), np.float32)
    of_several = _pixels(series, 0) if len(frames) > len(series.headers) else None
    for z, frame in enumerate(frames):
        stored = of_several[frame.index] if of_several is not None else _pixels(series, frame.instance).squeeze()
        if stored.shape != frame.size:
            raise UserError(f"{frame.name} of {series.name} has {stored.shape} pixels, expected grey {frame.size}")
        slope, intercept = frame.rescale
        values[z] = stored * slope + intercept
    return values


def _still(series: Series) -> np.ndarray:
    pixels = _pixels(series, 0)
    meaning = series.headers[0].get("PhotometricInterpretation")
    if pixels.dtype != np.uint8 or meaning == "PALETTE COLOR":
        raise UserError(f"{series.name} has pixels of {pixels.dtype}, {meaning}; expected 8 bits of grey or of colours")
    coloured = pixels if pixels.ndim == 3 else pixels[..., None]
    return np.moveaxis(coloured, -1, 0)[:, None]


def _pixels(series: Series, instance: int) -> np.ndarray:
    """The stored values of an instance; colours as red, green and blue."""
    header = series.headers[instance]
    try:
        with series.files[instance].open() as stream:
            return dcmread(stream).pixel_array
    except MemoryError:
        raise
    except Exception as error:  # of pydicom, and of whichever library decompresses
        raise UserError(
            f"the pixels of instance {header.get('InstanceNumber')} of {series.name} cannot be read "
            f"({_syntax(header)}; {type(error).__name__}): they are damaged, or their compression needs pip install "
            "'nnunetv2_dsvm[dicom]'"
        ) from None


def _syntax(header: Dataset) -> str:
    return getattr(header.file_meta.get("TransferSyntaxUID"), "name", "no transfer syntax")
