"""Read a label map with nnU-Net's reader, which says nothing of what is no label, cut off or NaN."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_dsvm.images.image_grid import PlacedArray, placed
from nnunetv2_dsvm.images.label_values import LARGEST_LABEL, no_labels
from nnunetv2_dsvm.images.nifti_files import check_whole, is_nifti


def read_label_map(path: Path, reader: Any) -> PlacedArray:
    """Read a label map as nnU-Net does, and say what it keeps to itself.

    Args:
        reader: nnU-Net's, an instance.

    Returns:
        Labels in uint16.

    Raises:
        ValueError: the text goes on after the file's name: it cannot be read, has several channels, or values that are
            no labels.
    """
    try:
        not_numbers = check_whole(path) if is_nifti(path) else {}
        values, properties = reader.read_seg(str(path))
        read = placed(values[0], properties)
    except Exception as error:  # whatever the reader's library raises
        text = str(error) or type(error).__name__
        # ITK's and SimpleITK's messages begin with places in its source code.
        raise ValueError(f"cannot be read: {text.partition('ERROR: ')[2] or text}") from error
    if len(values) != 1:
        raise ValueError(f"has {len(values)} channels, expected labels in one")
    with np.errstate(invalid="ignore"):
        labels = values[0].astype(np.uint16)
    if not_numbers or not np.array_equal(labels, values[0]):
        wrong = no_labels(values[0], not_numbers)
        raise ValueError(f"holds values that are no labels ({wrong}): expected integers from 0 to {LARGEST_LABEL}")
    return replace(read, values=labels)
