"""The labels of a scan, by nnU-Net's own prediction and the reader of files that the model was trained with."""

import contextlib
import io
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from skimage.io import imsave

from nnunetv2_dsvm.dicom.model import Model
from nnunetv2_dsvm.dicom.reading.scan import Scan
from nnunetv2_dsvm.images.image_grid import grid_differences, grid_of_image

_LABELS = "labels"


def predict_labels(scan: Scan, model: Model, predictor: nnUNetPredictor, workspace: Path) -> np.ndarray:
    """
    Args:
        workspace: a folder for the image and the labels as nnU-Net's reader reads and writes them.

    Returns:
        `(z, y, x)` on the scan's grid.

    Raises:
        RuntimeError: nnU-Net's reader has not given the scan's geometry back.
    """
    images = _write_images(scan, model, workspace)
    reader = predictor.plans_manager.image_reader_writer_class()
    predicted = workspace / f"{_LABELS}{model.file_ending}"
    with contextlib.redirect_stdout(io.StringIO()):
        image, properties = reader.read_images([str(file) for file in images])
        labels = predictor.predict_single_npy_array(image, properties)
        reader.write_seg(labels, str(predicted), properties)
    written = sitk.ReadImage(str(predicted))
    result = np.reshape(sitk.GetArrayFromImage(written), scan.values.shape[1:])
    if scan.stack is not None and (differ := grid_differences(grid_of_image(written), scan.grid)):
        raise RuntimeError(f"{type(reader).__name__} has changed the {' and the '.join(differ)} of the scan")
    return result


def _write_images(scan: Scan, model: Model, folder: Path) -> list[Path]:
    """A file per channel, or one of colours."""
    if model.reads_natural_images:
        picture = folder / f"image_0000{model.file_ending}"
        imsave(picture, np.moveaxis(scan.values[:, 0], 0, -1).squeeze(), check_contrast=False)
        return [picture]
    files = [folder / f"image_{i:04d}{model.file_ending}" for i in range(len(scan.values))]
    for file, channel in zip(files, scan.values, strict=True):
        sitk.WriteImage(scan.image(channel), str(file))
    return files
