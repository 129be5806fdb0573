"""Whether a NIfTI file is whole: ITK, with which nnU-Net reads, takes zeros for what is missing of one."""

import gzip
import math
from pathlib import Path

import nibabel


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def check_whole(path: Path) -> nibabel.Nifti1Image:
    """Read a NIfTI file to its end, without keeping it.

    Args:
        path: `.nii` or `.nii.gz`.

    Returns:
        The image, its values still on the disk.

    Raises:
        Exception: what nibabel, gzip or zlib raise at a header that is none, or at a wrong check sum.
        ValueError: the file is shorter than its header says.
    """
    image = nibabel.load(path)
    expected = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    size = 0
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
        while block := file.read(1 << 20):
            size += len(block)
    if size < expected:
        raise ValueError(f"it ends after {size} of {expected} bytes")
    return image
