"""Miniature references and predictions in nnU-Net's file layouts, for the tests of `nnUNetv2_dsvm evaluate`."""

import json
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

LABELS = {"background": 0, "organ": 1, "vessel": 2}
SPACING_MM = (2.5, 0.8, 0.7)


class DyingReader:
    """Ends its process, as a system does that has run out of memory."""

    def read_seg(self, path):
        os._exit(1)


def write_volume(path: Path, labels: np.ndarray, spacing_mm=SPACING_MM) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.SetSpacing(spacing_mm[::-1])
    sitk.WriteImage(image, str(path), True)


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def dataset_json(labels=LABELS, file_ending=".nii.gz", **more):
    return {"labels": labels, "file_ending": file_ending, "channel_names": {"0": "CT"}, "numTraining": 2, **more}


def plans_json(reader="SimpleITKIO"):
    return {"image_reader_writer": reader, "label_manager": "LabelManager", "dataset_name": "Dataset905_Mini"}


def blobs(seed: int, shape=(6, 20, 22), number_of_labels: int = 2) -> np.ndarray:
    """Boxes of each label at random places, and scattered voxels."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for label in range(1, number_of_labels + 1):
        start = [random.integers(0, n // 2 + 1) for n in shape]
        labels[tuple(slice(s, s + (n + 1) // 2) for s, n in zip(start, shape, strict=True))] = label
    scattered = random.random(shape) < 0.02
    labels[scattered] = random.integers(0, number_of_labels + 1, scattered.sum())
    return labels


def write_folders(root: Path, cases, *, name="prediction", labels=LABELS, **more) -> tuple[Path, Path]:
    """`cases`: name -> (reference, prediction). Both folders, the second with dataset.json and plans.json."""
    for case, (reference, prediction) in cases.items():
        write_volume(root / "reference" / f"{case}.nii.gz", reference)
        write_volume(root / name / f"{case}.nii.gz", prediction)
    write_json(root / name / "dataset.json", dataset_json(labels, **more))
    write_json(root / name / "plans.json", plans_json())
    return root / "reference", root / name
