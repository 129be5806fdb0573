"""A picture of the slice with the most foreground, its labels over it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_dsvm.dicom.reading.scan import Scan
from nnunetv2_dsvm.reporting.case_picture import write_case_picture
from nnunetv2_dsvm.reporting.case_slices import CaseSlices, colours_of_classes
from nnunetv2_dsvm.reporting.display import displayed, planes_of, slice_to_show


def write_overlay(
    path: Path,
    labels: np.ndarray,
    scan: Scan,
    *,
    foreground: Mapping[str, tuple[int, ...]],
    channel_names: Sequence[str],
) -> None:
    """
    Args:
        path: of a PNG, which nobody else reads yet.
        labels: `(z, y, x)`, on the scan's grid.
        foreground: label values by name; those in the slice are drawn.
        channel_names: of dataset.json, which say what is shown and how.
    """
    z = slice_to_show(np.isin(labels, list(set().union(*foreground.values()))), [])
    direction = {"sitk_stuff": {"direction": scan.grid.direction.ravel().tolist()}} if scan.stack is not None else {}
    axial, _, _ = planes_of(direction)
    # A still's channels are red, green and blue, whatever dataset.json calls them.
    names = ["R", "G", "B"] if scan.stack is None and len(scan.values) == 3 else channel_names
    shown = displayed(scan.values, z, names)
    case = CaseSlices(
        rgb=shown.rgb[axial.steps],
        segmentations={"prediction": labels[z][axial.steps]},
        pixel_aspect=float(scan.grid.spacing[1] / scan.grid.spacing[0]),
        plane=axial.name,
        slice_number=z + 1,
        slices=len(labels),
        shown_as=shown.description,
    )
    there = {name: values for name, values in foreground.items() if np.isin(labels[z], values).any()}
    write_case_picture(path, [case], there, colours_of_classes([case], there))
