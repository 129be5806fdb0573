"""Predictions for a converted dataset, in nnU-Net's folders, made without a training: the ground truth, shifted."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from helpers.quick_nnunet import threads_for_processes
from helpers.report_models import write_checkpoint


def reader_of(dataset_json: dict):
    return recursive_find_reader_writer_by_name(dataset_json["overwrite_image_reader_writer"])()


def predict(raw: Path, truth: Path, cases: Sequence[str], folder: Path, shift: int = 1) -> None:
    """Predictions as `nnUNetv2_predict` leaves them: shifted by 1, 2 or 3 times `shift` pixels, whichever the case."""
    dataset_json = json.loads((raw / "dataset.json").read_text())
    reader, ending = reader_of(dataset_json), dataset_json["file_ending"]
    folder.mkdir(parents=True)
    for number, case in enumerate(cases):
        labels, properties = reader.read_seg(str(truth / f"{case}{ending}"))
        shifted = np.roll(labels[0], shift * (1 + number % 3), axis=-1).astype(np.uint8)
        reader.write_seg(shifted, str(folder / f"{case}{ending}"), properties)
    _describe(raw, folder)


def train(raw: Path, results: Path, trainer: str, fold: str, cases: Sequence[str], shift: int = 1) -> Path:
    """The folder of a model with one fold, its validation predicted and measured by nnU-Net's own function."""
    model = results / raw.name / f"{trainer}__nnUNetPlans__2d"
    validation = model / f"fold_{fold}" / "validation"
    predict(raw, raw / "labelsTr", cases, validation, shift)
    for name in ("dataset.json", "plans.json"):
        shutil.move(validation / name, model / name)
    write_checkpoint(model / f"fold_{fold}" / "checkpoint_final.pth", 0, epochs=20, ours=True)
    dataset_json = json.loads((model / "dataset.json").read_text())
    with threads_for_processes():
        compute_metrics_on_folder(
            str(raw / "labelsTr"),
            str(validation),
            str(validation / "summary.json"),
            reader_of(dataset_json),
            dataset_json["file_ending"],
            [value for value in dataset_json["labels"].values() if value],
            num_processes=2,
        )
    return model


def _describe(raw: Path, folder: Path) -> None:
    shutil.copy(raw / "dataset.json", folder)
    reader = json.loads((raw / "dataset.json").read_text())["overwrite_image_reader_writer"]
    plans = {"dataset_name": raw.name, "plans_name": "nnUNetPlans", "image_reader_writer": reader}
    (folder / "plans.json").write_text(json.dumps(plans))
