"""nnU-Net's raw dataset format, written so that an interrupted conversion leaves no half dataset behind."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_dsvm.datasets.dataset_json import write_dataset_json
from nnunetv2_dsvm.files.atomic_write import replaced_folder


@dataclass
class Case:
    """An image (of a CT: in HU) and its labels on the same grid."""

    name: str
    image: sitk.Image
    label: sitk.Image


def to_lps(image: sitk.Image) -> sitk.Image:
    """The same image with its axes running towards the patient's left, posterior and superior.

    nnU-Net works in the order in which the voxels are stored. Two scanners' files reach the network the same way up
    only if they are brought to one orientation first.
    """
    return sitk.DICOMOrient(image, "LPS")


def label_on_grid(label: sitk.Image, image: sitk.Image) -> sitk.Image:
    """`label` at the voxels of `image`, matched in physical space (nearest neighbour; 0 outside of `label`)."""
    return sitk.Resample(label, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, label.GetPixelID())


def merge_labels(label: sitk.Image, groups: Mapping[str, Iterable[int]]) -> sitk.Image:
    """Group i (from 1) of `groups` becomes label i, everything else 0."""
    source = sitk.GetArrayViewFromImage(label)
    merged = np.zeros(source.shape, np.uint8)
    for value, members in enumerate(groups.values(), start=1):
        merged[np.isin(source, list(members))] = value
    result = sitk.GetImageFromArray(merged)
    result.CopyInformation(label)
    return result


def write_dataset(
    folder: Path,
    *,
    training: Iterable[Case],
    test: Iterable[Case],
    label_names: Iterable[str],
    description: str,
    reference: str,
    channel: str = "CT",
    pixel_type: int = sitk.sitkInt16,
) -> None:
    """Write a dataset of one channel in nnU-Net's raw format; the test cases' labels go to `labelsTs`.

    Args:
        folder: `…/DatasetXXX_Name`; replaced if it exists, and there only when it is complete.
        label_names: names of labels 1, 2, …
        description: what the dataset is, for `dataset.json`.
        reference: where it comes from and its licence.
        channel: its name, from which nnU-Net takes how to normalise: "CT", "noNorm", any other as MRI.
        pixel_type: SimpleITK's, of the images written.
    """
    with replaced_folder(folder) as partial:
        _write_cases(training, partial / "imagesTr", partial / "labelsTr", pixel_type)
        _write_cases(test, partial / "imagesTs", partial / "labelsTs", pixel_type)
        write_dataset_json(
            partial,
            description=description,
            reference=reference,
            channels=(channel,),
            labels=label_names,
            file_ending=".nii.gz",
            reader="SimpleITKIO",
        )


def _write_cases(cases: Iterable[Case], images: Path, labels: Path, pixel_type: int) -> None:
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for case in cases:
        sitk.WriteImage(sitk.Cast(case.image, pixel_type), str(images / f"{case.name}_0000.nii.gz"), True)
        sitk.WriteImage(case.label, str(labels / f"{case.name}.nii.gz"), True)
