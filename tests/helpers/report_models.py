"""Model folders as nnU-Net and `nnUNetv2_dsvm evaluate` leave them, made without a training.

Images and ground truth are drawn; a prediction is the ground truth shifted by some pixels, so that its Dice is known to
fall with the shift; a checkpoint holds what nnU-Net's logger holds.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

SECONDS = 2.5  # of an epoch


@dataclass(frozen=True)
class Drawn:
    """A drawn dataset; `kind`: CT (volumes, two organs), RGB (photographs, one lesion), regions (MR, overlapping)."""

    root: Path
    kind: str = "CT"
    cases: int = 6
    size: tuple[int, int] = (72, 96)

    @property
    def name(self) -> str:
        return f"Dataset905_{self.kind}"

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / self.name

    @property
    def results(self) -> Path:
        return self.root / "nnUNet_results" / self.name

    @property
    def ending(self) -> str:
        return ".png" if self.kind == "RGB" else ".nii.gz"

    @property
    def labels(self) -> dict:
        return {
            "CT": {"background": 0, "liver": 1, "left_kidney": 2},
            "RGB": {"background": 0, "lesion": 1},
            "regions": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        }[self.kind]

    @property
    def dataset_json(self) -> dict:
        channels = {"CT": ["CT"], "RGB": ["R", "G", "B"], "regions": ["T1", "T2"]}[self.kind]
        return {
            "channel_names": {str(i): name for i, name in enumerate(channels)},
            "labels": self.labels,
            "file_ending": self.ending,
            "numTraining": self.cases,
            **({"regions_class_order": [1, 2]} if self.kind == "regions" else {}),
        }

    def case(self, i: int) -> str:
        return f"{self.kind.lower()}_{i:03d}"

    def truth(self, i: int) -> np.ndarray:
        """Labels `(z, y, x)`; of volumes, the fourth slice has the largest objects."""
        depth = 1 if self.kind == "RGB" else 6
        height, width = self.size
        z, y, x = np.indices((depth, height, width))
        grown = 1 - 0.12 * np.abs(z - 3 * (depth > 1))
        labels = np.zeros(z.shape, np.uint8)
        shift = (i % 3 - 1) * height / 24
        wobble = 1 + 0.15 * np.sin(5 * np.arctan2(y - 0.45 * height, x - 0.38 * width))
        at = np.hypot((y - 0.45 * height - shift) / (0.24 * height), (x - 0.38 * width) / (0.21 * width))
        labels[at < grown * wobble] = 1
        if self.kind != "RGB":
            centre = (0.55, 0.72) if self.kind == "CT" else (0.45, 0.4)
            at = np.hypot((y - centre[0] * height - shift) / (0.13 * height), (x - centre[1] * width) / (0.1 * width))
            labels[at < grown] = 2
        if self.kind == "regions":
            labels[:, :, -width // 8 :] = 3
        return labels

    def write(self) -> "Drawn":
        """Write imagesTr, labelsTr and dataset.json below nnUNet_raw."""
        for folder in ("imagesTr", "labelsTr"):
            (self.raw / folder).mkdir(parents=True, exist_ok=True)
        for i in range(self.cases):
            rng, truth = np.random.default_rng(i), self.truth(i)
            if self.kind == "RGB":
                skin, mole = np.array([214, 168, 140]), np.array([110, 66, 50])
                rgb = np.where(truth[0][..., None] == 1, mole, skin) + rng.normal(0, 8, (*truth.shape[1:], 3))
                rgb = np.clip(rgb, 0, 255).astype(np.uint8)
                Image.fromarray(rgb).save(self.raw / "imagesTr" / f"{self.case(i)}_0000.png")
            else:
                _, y, x = np.indices(truth.shape)
                inside = np.hypot(y / self.size[0] - 0.5, (x / self.size[1] - 0.5)) < 0.46
                image = (
                    np.where(inside, 10.0, -1000) + np.array([0, 90, 150, 0])[truth] + rng.normal(0, 15, truth.shape)
                )
                for channel in range(len(self.dataset_json["channel_names"])):
                    _write(image / (1 + channel), self.raw / "imagesTr" / f"{self.case(i)}_{channel:04d}.nii.gz")
            _write(truth, self.raw / "labelsTr" / f"{self.case(i)}{self.ending}")
        (self.raw / "dataset.json").write_text(json.dumps(self.dataset_json))
        return self


def _write(array: np.ndarray, path: Path) -> None:
    if path.suffix == ".png":
        Image.fromarray(array[0]).save(path)
        return
    image = sitk.GetImageFromArray(array if array.dtype == np.uint8 else array.astype(np.int16))
    image.SetSpacing((1.5, 1.5, 4.0))
    sitk.WriteImage(image, str(path))


def shifted(labels: np.ndarray, pixels: int) -> np.ndarray:
    return np.roll(labels, pixels, axis=2)


def dice_and_iou(truth: np.ndarray, prediction: np.ndarray, values: tuple[int, ...]) -> tuple[float, float]:
    """Computed from sets of voxels; NaN where both are empty."""
    a, b = (set(np.flatnonzero(np.isin(labels, values))) for labels in (truth, prediction))
    if not a | b:
        return math.nan, math.nan
    return 2 * len(a & b) / (len(a) + len(b)), len(a & b) / len(a | b)


def make_model(
    drawn: Drawn,
    trainer: str,
    *,
    shift: int = 1,
    folds: int = 2,
    epochs: int = 40,
    ours: bool = True,
    evaluated: bool = False,
    checkpoint: str = "checkpoint_final.pth",
    configuration: str = "2d",
) -> Path:
    """Write a model folder; case i belongs to fold `i % folds`, its prediction is shifted by `shift * i` pixels.

    Args:
        ours: the logger has the series of a trainer with distillation.
        evaluated: `metrics_nnunet.json` is there too.
    """
    folder = drawn.results / f"{trainer}__nnUNetPlans__{configuration}"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(drawn.dataset_json))
    reader = "NaturalImage2DIO" if drawn.kind == "RGB" else "SimpleITKIO"
    configurations = {"2d": {"patch_size": [64, 64]}, "3d_fullres": {"patch_size": [6, 64, 64]}}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans = {
        "dataset_name": drawn.name, "plans_name": "nnUNetPlans", "image_reader_writer": reader,
        "configurations": configurations,
    }  # fmt: skip
    (folder / "plans.json").write_text(json.dumps(plans))
    for fold in range(folds):
        validation = folder / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True)
        write_checkpoint(validation.parent / checkpoint, fold, epochs, ours)
        summary = []
        for i in range(fold, drawn.cases, folds):
            truth = drawn.truth(i)
            prediction = shifted(np.where(truth == 3, 0, truth).astype(np.uint8), shift * i)
            file = validation / f"{drawn.case(i)}{drawn.ending}"
            _write(prediction, file)
            metrics = {}
            for key, values in _keys(drawn.labels):
                dice, iou = dice_and_iou(truth, np.where(truth == 3, 0, prediction), values)
                metrics[key] = {"Dice": dice, "IoU": iou, "TP": 1}
            reference = drawn.raw / "labelsTr" / file.name
            summary.append({"metrics": metrics, "prediction_file": str(file), "reference_file": str(reference)})
        (validation / "summary.json").write_text(json.dumps({"metric_per_case": summary}))
        if evaluated:
            (validation / "metrics_nnunet.json").write_text(json.dumps(_as_evaluated(drawn, summary)))
    return folder


def _keys(labels: dict) -> list[tuple[str, tuple[int, ...]]]:
    """As nnU-Net writes labels and regions, and their values."""
    keys = []
    for name, value in labels.items():
        if name not in ("background", "ignore"):
            region = tuple(value) if isinstance(value, list) else None
            keys.append((str(region or value), region or (value,)))
    return keys


def _as_evaluated(drawn: Drawn, summary: list[dict]) -> dict:
    names = [name for name in drawn.labels if name not in ("background", "ignore")]
    per_case = []
    for entry in summary:
        values = {
            name: {"Dice": of["Dice"], "IoU": of["IoU"], "HD95_mm": 20 * (1 - of["Dice"]), "NSD": None}
            for name, of in zip(names, entry["metrics"].values(), strict=True)
        }
        case = Path(entry["prediction_file"]).name.removesuffix(drawn.ending)
        files = {"reference": entry["reference_file"], "prediction": entry["prediction_file"]}
        per_case.append({"case": case, **files, "values": values})
    metrics = ["Dice", "IoU", "HD95_mm", "NSD"]
    numbers = {"mean": 0.5, "std": 0.25, "n": len(per_case)}
    return {
        "protocol": "nnunet",
        "labels": {name: drawn.labels[name] for name in names},
        "metrics": metrics,
        "tolerance_mm": 2.0,
        "per_case": per_case,
        "summary": {name: dict.fromkeys(metrics, numbers) for name in (*names, "mean")},
        "rule_for_empty_masks": "both empty: not counted.",
        "versions": {},
    }


def write_checkpoint(file: Path, fold: int, epochs: int, ours: bool) -> None:
    """A checkpoint with what nnU-Net's logger holds after `epochs`; `ours`: with the terms of the distillation."""
    logging = {key: [] for key in LocalLogger().my_fantastic_logging}
    rng, t = np.random.default_rng(fold), np.arange(epochs) / max(epochs, 1)
    logging["train_losses"] = list(np.exp(-4 * t) - 0.7 + rng.normal(0, 0.02, epochs))
    logging["val_losses"] = list(np.exp(-4 * t) - 0.6 + rng.normal(0, 0.04, epochs))
    logging["mean_fg_dice"] = list(0.9 - 0.8 * np.exp(-5 * t) + rng.normal(0, 0.02, epochs))
    logging["ema_fg_dice"] = list(0.9 - 0.85 * np.exp(-4 * t))
    logging["epoch_start_timestamps"] = list(1.7e9 + 1000 * np.arange(epochs))  # breaks between epochs do not count
    logging["epoch_end_timestamps"] = list(1.7e9 + 1000 * np.arange(epochs) + SECONDS)
    logging["lrs"] = list(1e-3 * (1 + np.cos(np.pi * t)) / 2)
    if ours:
        logging["segmentation_loss"] = list(np.exp(-4 * t) - 0.72)
        logging["L_proj"] = list(0.4 * np.exp(-3 * t) + 0.01)
        logging["L_prog"] = list(0.2 * np.exp(-2 * t) + 0.005)
        logging["distillation_ramp"] = list(np.minimum(1, t * 10))
    content = {
        "network_weights": {"w": torch.zeros(3, 4)},
        "optimizer_state": {},
        "current_epoch": epochs,
        "init_args": {},
        "trainer_name": "x",
        "logging": logging,
    }
    torch.save(content, file)
