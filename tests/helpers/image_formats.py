"""The file formats that nnU-Net reads: how a case of arrays is written as files, and a label map read back."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tifffile
from skimage import io

ORIGIN_MM = (5.0, -7.0, 11.0)


@dataclass(frozen=True)
class ImageFormat:
    """Files of one `ending` that nnU-Net's `reader` reads. `flat`: 2D images; `rgb`: all channels in one file."""

    reader: str = "SimpleITKIO"
    ending: str = ".nii.gz"
    flat: bool = False
    rgb: bool = False

    def write_images(self, images: list[np.ndarray], stem: Path, spacing_mm: tuple[float, ...]) -> None:
        """Writes arrays (z, y, x), one per channel, as the files of one case; those of `rgb` have whole numbers."""
        if self.rgb:
            images = [np.stack(images, axis=-1).clip(0, 255).astype(np.uint8)]
        for channel, image in enumerate(images):
            self._write(image, stem.with_name(f"{stem.name}_{channel:04d}"), spacing_mm)
        if self.reader == "Tiff3DIO":
            Path(f"{stem}.json").write_text(json.dumps({"spacing": spacing_mm[::-1]}))

    def write_labels(self, labels: np.ndarray, stem: Path, spacing_mm: tuple[float, ...]) -> None:
        self._write(labels, stem, spacing_mm)
        if self.reader == "Tiff3DIO":
            Path(f"{stem}.json").write_text(json.dumps({"spacing": spacing_mm[::-1]}))

    def read_labels(self, stem: Path) -> np.ndarray:
        """The label map (z, y, x) of a file."""
        path = f"{stem}{self.ending}"
        if self.reader == "Tiff3DIO":
            return tifffile.imread(path)
        if self.reader == "NaturalImage2DIO":
            return io.imread(path)[None]
        labels = sitk.GetArrayFromImage(sitk.ReadImage(path))
        return labels[None] if self.flat else labels

    def _write(self, array: np.ndarray, stem: Path, spacing_mm: tuple[float, ...]) -> None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        path, array = f"{stem}{self.ending}", array[0] if self.flat else array
        if self.reader == "Tiff3DIO":
            tifffile.imwrite(path, array)
            return
        if self.reader == "NaturalImage2DIO":
            io.imsave(path, array, check_contrast=False)
            return
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing_mm[: image.GetDimension()])
        image.SetOrigin(ORIGIN_MM[: image.GetDimension()])
        sitk.WriteImage(image, path)
