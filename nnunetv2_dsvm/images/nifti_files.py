"""What ITK, with which nnU-Net reads, keeps to itself of a NIfTI file: it takes 0 for what is missing, and for NaN."""

import gzip
import math
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.images.label_values import count_not_numbers

BLOCK = 1 << 20  # bytes; a multiple of every type's size


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def check_whole(path: Path) -> dict[str, int]:
    """Read a NIfTI file to its end, without keeping it.

    Args:
        path: `.nii` or `.nii.gz`.

    Returns:
        How often NaN, Inf and -Inf are stored in it, those that are.

    Raises:
        Exception: what nibabel, gzip or zlib raise at a header that is none, or at a wrong check sum.
        ValueError: the file is shorter than its header says, has no spacing, or holds complex numbers or no image.
    """
    image = nibabel.load(path)
    if not (isinstance(image, nibabel.Nifti1Pair) and isinstance(image.dataobj, ArrayProxy)):
        raise ValueError("it holds no NIfTI image")  # but a table, as CIFTI does under the same ending
    dtype = image.get_data_dtype()
    if dtype.kind == "c":
        raise ValueError("it holds complex numbers")  # nnU-Net's readers drop the imaginary part
    expected = image.dataobj.offset + math.prod(image.shape) * dtype.itemsize
    found: Counter[str] = Counter()
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
        start = file.read(image.dataobj.offset)
        size = len(start)
        _check_spacing(image.header, start)
        while block := file.read(BLOCK):
            if dtype.kind == "f":
                stored = block[: max(0, expected - size)]
                values = np.frombuffer(stored, dtype, len(stored) // dtype.itemsize)
                if not np.isfinite(values).all():
                    found.update(count_not_numbers(values))
            size += len(block)
    if size < expected:
        raise ValueError(f"it ends after {size} of {expected} bytes")
    return dict(found)


def _check_spacing(header: nibabel.Nifti1Header, start: bytes) -> None:
    """ITK and nibabel both make a spacing of 0 one of 1; that of a single slice measures nothing."""
    stored = type(header)(start[: header.template_dtype.itemsize], header.endianness, check=False)
    spacing = np.array(stored.get_zooms()[:3], float)
    several = np.array(stored.get_data_shape()[:3]) > 1
    if not np.isfinite(spacing).all() or not spacing[several].all():
        raise ValueError(f"its header has the spacing {by(spacing)} mm")
