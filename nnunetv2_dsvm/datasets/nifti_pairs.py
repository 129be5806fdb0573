"""Images and labels in NIfTI files: what can be wrong with a pair of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_dsvm.files.text import last_line
from nnunetv2_dsvm.images.image_grid import grid_differences, grid_of_image
from nnunetv2_dsvm.images.label_values import in_words, no_labels
from nnunetv2_dsvm.images.nifti_files import check_whole


def check_pair(image_path: Path, label_path: Path | None, labels: Iterable[int]) -> list[tuple[Path, str]]:
    """What is wrong with an image and its label map: (path, text) each.

    Args:
        image_path: a volume of finite values.
        label_path: integers on the same grid; None where there is no ground truth.
        labels: the values that are allowed, 0 among them.
    """
    findings: list[tuple[Path, str]] = []
    image = _read(image_path, findings)
    label = _read(label_path, findings) if label_path else None
    if label_path is None or label is None:
        return findings
    values = sitk.GetArrayViewFromImage(label)
    if wrong := no_labels(values):
        findings.append((label_path, f"holds values that are no labels: {wrong}"))
    other = sorted({value for value in np.unique(values).tolist() if value % 1 == 0} - set(labels))
    if other:
        shown = ", ".join(f"{value:g}" for value in other[:8])
        findings.append((label_path, f"has the labels {shown}, expected {min(labels)} to {max(labels)}"))
    if image is None:
        return findings
    try:
        of_label, of_image = grid_of_image(label), grid_of_image(image)
        differ = grid_differences(of_label, of_image)
    except ValueError as error:
        return [*findings, (label_path, f"or its image cannot be placed: {error}")]
    if differ:
        text = f"they differ in {' and '.join(differ)}. It has {of_label}; its image has {of_image}"
        findings.append((label_path, f"lies on another grid than its image: {text}"))
    return findings


def _read(path: Path, findings: list[tuple[Path, str]]) -> sitk.Image | None:
    try:
        not_numbers = check_whole(path)
        if not_numbers:
            findings.append((path, f"has values that are not numbers: {in_words(not_numbers)}"))
        image = sitk.ReadImage(str(path))
    except Exception as error:  # whatever nibabel, gzip and ITK raise
        findings.append((path, f"cannot be read: {last_line(error)}"))
        return None
    dimensions, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if dimensions != 3 or components != 1:
        findings.append((path, f"has {dimensions} dimensions and {components} values a voxel, expected 3 and 1"))
        return None
    return image
