"""Slices of a case, read by nnU-Net's own reader: the image as it is shown, the ground truth and the predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_dsvm.images.image_grid import grid_problem, placed
from nnunetv2_dsvm.images.label_maps import read_label_map
from nnunetv2_dsvm.images.nifti_files import check_whole, is_nifti
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.display import displayed, planes_of, slice_to_show
from nnunetv2_dsvm.reporting.label_colours import choose_label_colours


@dataclass(frozen=True)
class CaseSlices:
    """A slice to draw.

    Args:
        rgb: in 0 … 1, `(y, x, 3)`.
        segmentations: label maps `(y, x)` by the title of their column, the ground truth first.
        pixel_aspect: height of a pixel by its width.
        plane: "axial", "coronal" or "sagittal"; "" where the file says nothing of directions.
        slice_number: from 1, of `slices`.
        shown_as: which channel or colours, and which intensities are black and white.
    """

    rgb: np.ndarray
    segmentations: Mapping[str, np.ndarray]
    pixel_aspect: float
    plane: str
    slice_number: int
    slices: int
    shown_as: str


def read_case_slices(
    model: TrainedModel,
    *,
    images: Sequence[Path],
    truth: Path,
    predictions: Mapping[str, Path],
    three_planes: bool = False,
) -> list[CaseSlices]:
    """Read a case's files and choose the slice, or a slice in each of three planes.

    Args:
        model: whose labels, channels and reader are used.
        images: the channels.
        truth: the ground truth's label map.
        predictions: the predicted label maps by the title of their column.
        three_planes: of a volume; an image of one slice has one all the same.

    Raises:
        ValueError: a label map lies on another grid than the image, or holds values that are no labels.
        Exception: what nnU-Net's reader, or `check_whole`, raise at a broken image.
    """
    reader = model.reader()
    image, properties = reader.read_images([str(file) for file in images])
    for file in filter(is_nifti, images):
        check_whole(file)
    of_image = placed(image[0], properties)
    segmentations = {}
    for title, file in {"ground truth": truth, **predictions}.items():
        try:
            label_map = read_label_map(file, reader)
        except ValueError as error:
            raise ValueError(f"{file} {error}") from error
        if difference := grid_problem(label_map, of_image, "its image", images[0]):
            raise ValueError(f"{file} {difference}")
        segmentations[title] = label_map.values
    foreground = sorted({value for values in model.labels.values() for value in values})
    masks = [np.isin(segmentation, foreground) for segmentation in segmentations.values()]
    description = model.dataset_json
    names = list((description.get("channel_names") or description["modality"]).values())  # nnU-Net reads both
    slices = []
    for plane in planes_of(properties)[: 3 if three_planes and image.shape[1] > 1 else 1]:
        truth_mask, *predicted_masks = (np.moveaxis(mask, plane.axis, 0) for mask in masks)
        index = slice_to_show(truth_mask, predicted_masks)
        shown = displayed(np.moveaxis(image, 1 + plane.axis, 1), index, names)
        height_mm, width_mm = (float(s) for axis, s in enumerate(properties["spacing"]) if axis != plane.axis)
        slices.append(
            CaseSlices(
                rgb=shown.rgb[plane.steps],
                segmentations={title: s.take(index, plane.axis)[plane.steps] for title, s in segmentations.items()},
                pixel_aspect=height_mm / width_mm,
                plane=plane.name,
                slice_number=index + 1,
                slices=len(truth_mask),
                shown_as=shown.description,
            )
        )
    return slices


def colours_of_classes(cases: Sequence[CaseSlices], labels: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A colour for each class, the same in all of these cases.

    Args:
        labels: the label values of each class.
    """
    pictures = (
        (case.rgb, [np.isin(segmentation, values) for values in labels.values()])
        for case in cases
        for segmentation in case.segmentations.values()
    )
    return choose_label_colours(pictures, len(labels))
