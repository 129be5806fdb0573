"""Images and labels in NIfTI files: what can be wrong with a pair of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_dsvm.nifti_files import check_whole

TOLERANCE = 1e-3  # of spacing, origin and direction: two programs round them differently


def check_pair(image_path: Path, label_path: Path | None, labels: Iterable[int]) -> list[tuple[Path, str]]:
    """What is wrong with an image and its label map: (path, text) each.

    Args:
        image_path: a volume of finite values.
        label_path: integers on the same grid; None where there is no ground truth.
        labels: the values that are allowed, 0 among them.
    """
    findings: list[tuple[Path, str]] = []
    image, label = (_read(path, findings) if path else None for path in (image_path, label_path))
    if label is not None:
        other = sorted(set(np.unique(sitk.GetArrayViewFromImage(label)).tolist()) - set(labels))
        if other:
            shown = ", ".join(f"{value:g}" for value in other[:8])
            findings.append((label_path, f"has the labels {shown}, expected {min(labels)} to {max(labels)}"))
    if image is not None and label is not None:
        if image.GetSize() != label.GetSize():
            findings.append((label_path, f"has {_by(label.GetSize())} voxels, its image {_by(image.GetSize())}"))
        else:
            for name in ("Spacing", "Origin", "Direction"):
                of_label, of_image = (getattr(volume, f"Get{name}")() for volume in (label, image))
                if not np.allclose(of_label, of_image, rtol=TOLERANCE, atol=TOLERANCE):
                    findings.append((label_path, f"has another {name.lower()} than its image: {of_label}, {of_image}"))
    return findings


def _read(path: Path, findings: list[tuple[Path, str]]) -> sitk.Image | None:
    try:
        if not _is_finite(path):
            findings.append((path, "has values that are not numbers (NaN or infinite)"))
        image = sitk.ReadImage(str(path))
    except Exception as error:  # whatever nibabel, gzip and ITK raise
        findings.append((path, f"cannot be read: {_last_line(error)}"))
        return None
    dimensions, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if dimensions != 3 or components != 1:
        findings.append((path, f"has {dimensions} dimensions and {components} values a voxel, expected 3 and 1"))
        return None
    return image


def _is_finite(path: Path) -> bool:
    """Whether all stored values are numbers: ITK reads NaN as 0. Raises what `check_whole` does."""
    stored = check_whole(path)
    return stored.get_data_dtype().kind != "f" or bool(np.isfinite(stored.dataobj.get_unscaled()).all())


def _last_line(error: Exception) -> str:
    """ITK's messages begin with places in its source code."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _by(size: Iterable[int]) -> str:
    return "×".join(map(str, size))
