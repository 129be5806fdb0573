"""A folder's label maps."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in sorted(folder.glob("*.nii.gz"))}
