"""DICOM SEG and RTSTRUCT read by the standard's text alone: where in space each voxel lies."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from skimage.draw import polygon


def affine(axes: np.ndarray, spacing_mm: tuple[float, float, float], origin_mm: np.ndarray) -> np.ndarray:
    """From indices x, y, z to millimetres, `(4, 4)`."""
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = axes.T * np.array(spacing_mm), origin_mm
    return result


def read_segmentation(path: Path, to_mm: np.ndarray, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Masks `(z, y, x)` by segment label, on a grid; no voxel may lie elsewhere."""
    stored = dcmread(path)
    names = {segment.SegmentNumber: segment.SegmentLabel for segment in stored.SegmentSequence}
    masks = {name: np.zeros(shape, bool) for name in names.values()}
    frames = np.reshape(stored.pixel_array, (-1, stored.Rows, stored.Columns))
    shared = stored.SharedFunctionalGroupsSequence[0]
    for groups, frame in zip(stored.PerFrameFunctionalGroupsSequence, frames, strict=True):
        number = _group(groups, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber
        position = np.array(_group(groups, shared, "PlanePositionSequence").ImagePositionPatient, float)
        cosines = np.array(_group(groups, shared, "PlaneOrientationSequence").ImageOrientationPatient, float)
        between_rows, between_columns = _group(groups, shared, "PixelMeasuresSequence").PixelSpacing
        y, x = np.nonzero(frame)
        mm = (
            position
            + np.outer(x * float(between_columns), cosines[:3])
            + np.outer(y * float(between_rows), cosines[3:])
        )
        i, j, k = on_grid(mm, to_mm).T
        masks[names[number]][k, j, i] = True
    return masks


def read_structures(path: Path, to_mm: np.ndarray, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Masks of the voxels whose centres lie in the contours, `(z, y, x)` by ROI name."""
    stored = dcmread(path)
    names = {roi.ROINumber: roi.ROIName for roi in stored.StructureSetROISequence}
    masks = {name: np.zeros(shape, bool) for name in names.values()}
    for roi in stored.ROIContourSequence:
        for contour in roi.get("ContourSequence", []):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            mm = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            assert len(mm) == contour.NumberOfContourPoints
            x, y, z = ((mm - to_mm[:3, 3]) @ np.linalg.inv(to_mm[:3, :3]).T).T
            k = round(z.mean())
            np.testing.assert_allclose(z, k, atol=1e-3)  # within a slice
            masks[names[roi.ReferencedROINumber]][k][polygon(y, x, shape[1:])] = True
    return masks


def on_grid(mm: np.ndarray, to_mm: np.ndarray) -> np.ndarray:
    """Indices x, y, z of points that must be voxel centres, `(points, 3)`."""
    exact = (mm - to_mm[:3, 3]) @ np.linalg.inv(to_mm[:3, :3]).T
    np.testing.assert_allclose(exact, exact.round(), atol=1e-3)
    return exact.round().astype(int)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def errors_of_dciodvfy(path: Path) -> list[str]:
    """What Debian's dicom3tools find wrong with a file; nothing where they are not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace")
    return [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]


def _group(groups: Dataset, shared: Dataset, name: str) -> Dataset:
    return (groups.get(name) or shared[name].value)[0]
