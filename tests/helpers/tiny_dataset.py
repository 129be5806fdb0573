"""A generated dataset in nnU-Net's raw format, small enough to plan, preprocess and train on in seconds.

Each case is a small volume with two bright objects whose place depends on the seed. `TinyDataset` keeps nnU-Net's three
folders below one root, so that a test never touches the user's own.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api as api

from helpers.image_formats import ImageFormat
from helpers.quick_nnunet import QuickFingerprint, threads_for_processes

SHAPE = (6, 40, 48)
PLANS = "tinyPlans"
SPACING_MM = (1.0, 1.0, 4.0)  # x, y, z; nnU-Net plans a 3D configuration for these volumes too
NETWORK = {
    "dims": [8, 16, 32],
    "encoder_depths": [1, 1, 1],
    "decoder_depths": [1, 1, 1],
    "d_state": 2,
    "drop_path_rate": 0.1,
}


@dataclass(frozen=True)
class TinyDataset:
    """A dataset below `root`, which holds nnUNet_raw, nnUNet_preprocessed and nnUNet_results."""

    root: Path
    name: str = "Dataset901_Tiny"

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / self.name

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / self.name

    @property
    def results(self) -> Path:
        return self.root / "nnUNet_results" / self.name

    @property
    def environment(self) -> dict[str, str]:
        """nnU-Net's variables for this dataset; no background workers."""
        folders = {name: str(self.root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        return {**folders, "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}

    def command(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs one of nnU-Net's commands, as installed beside this Python, captures its output, raises on failure."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / name), *map(str, arguments)],
            env={**os.environ, **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        if done.returncode:
            raise RuntimeError(f"{name} {' '.join(map(str, arguments))} failed:\n{done.stdout[-6000:]}")
        return done

    def command_here(self, name: str, *arguments: object, **environment: str) -> str:
        """Runs one of nnU-Net's commands inside this process and returns what it printed.

        The trainers of short_trainers.py are found by their names, unless `environment` names another folder.
        """
        trainers = self.root / "my_trainers"
        trainers.mkdir(exist_ok=True)
        (trainers / "my_trainers.py").write_text("from helpers.short_trainers import *\n")
        (command,) = entry_points(group="console_scripts", name=name)
        printed = io.StringIO()
        with (
            self.here(**{"nnUNet_extTrainer": str(trainers), **environment}),
            mock.patch.object(sys, "argv", [name, *map(str, arguments)]),
            mock.patch.object(torch, "set_num_threads", lambda count: None),
            contextlib.redirect_stdout(printed),
        ):
            command.load()()
        return printed.getvalue()

    @contextlib.contextmanager
    def here(self, **environment: str) -> Iterator[None]:
        """nnU-Net's own functions work on this dataset inside this process, without processes of theirs."""
        with mock.patch.dict(os.environ, {**self.environment, **environment}), threads_for_processes():
            yield

    def train_here(
        self, trainer: str, *options: object, fold: object = 0, plans: str = PLANS, configuration: str = "2d"
    ) -> str:
        """nnUNetv2_train inside this process, on the CPU unless the options say otherwise."""
        what = ["901", configuration, fold, "-tr", trainer, "-p", plans]
        device = [] if "-device" in options else ["-device", "cpu"]
        return self.command_here("nnUNetv2_train", *what, *device, *options)

    def copy(self, root: Path) -> "TinyDataset":
        """The raw and the preprocessed data below another folder, where tests may write."""
        for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
            shutil.copytree(self.root / folder, root / folder)
        (root / "nnUNet_results").mkdir()
        return TinyDataset(root)

    def load_plans(self) -> dict[str, Any]:
        return json.loads((self.preprocessed / f"{PLANS}.json").read_text())

    def load_dataset_json(self) -> dict[str, Any]:
        return json.loads((self.preprocessed / "dataset.json").read_text())


def tiny_case(seed: int, channels: int) -> tuple[list[np.ndarray], np.ndarray]:
    """One image per channel and the labels 0, 1, 2, each `SHAPE` (z, y, x)."""
    rng = np.random.default_rng(seed)
    _, y, x = np.indices(SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    for label, (cy, cx, radius) in enumerate([(13, 14, 8), (27, 33, 7)], start=1):
        dy, dx = rng.integers(-3, 4, 2)
        labels[(y - cy - dy) ** 2 + (x - cx - dx) ** 2 < radius**2] = label
    images = [rng.normal(0, 20, SHAPE) + 100.0 * (channel + 1) * labels for channel in range(channels)]
    return [image.astype(np.float32) for image in images], labels


def write_raw_dataset(
    dataset: TinyDataset,
    *,
    training_cases: int = 5,
    test_cases: int = 1,
    channels: int = 1,
    channel_names: tuple[str, ...] = ("MR", "noNorm", "noNorm", "noNorm"),
    regions: bool = False,
    ignore_label: int | None = None,
    file_format: ImageFormat = ImageFormat(),  # noqa: B008  (frozen)
    slices: int = SHAPE[0],
    spacing_mm: tuple[float, float, float] = SPACING_MM,
) -> None:
    """Writes the raw dataset: imagesTr, labelsTr, imagesTs, labelsTs, dataset.json.

    With `regions`, labels overlap; with an `ignore_label`, the last third of every slice has it. `spacing_mm` is
    (x, y, z).
    """
    for seed in range(training_cases + test_cases):
        split = "Tr" if seed < training_cases else "Ts"
        images, labels = tiny_case(seed, channels)
        if ignore_label is not None:
            labels[..., 2 * SHAPE[2] // 3 :] = ignore_label
        images, labels, name = [image[:slices] for image in images], labels[:slices], f"case_{seed:03d}"
        file_format.write_images(images, dataset.raw / f"images{split}" / name, spacing_mm)
        file_format.write_labels(labels, dataset.raw / f"labels{split}" / name, spacing_mm)
    labels_json = {"background": 0, "whole": [1, 2], "core": [2]} if regions else {"background": 0, "one": 1, "two": 2}
    if ignore_label is not None:
        labels_json["ignore"] = ignore_label
    description = {
        "channel_names": {str(channel): channel_names[channel] for channel in range(channels)},
        "labels": labels_json,
        **({"regions_class_order": [1, 2]} if regions else {}),
        "numTraining": training_cases,
        "file_ending": file_format.ending,
        # which reader reads the other files, nnU-Net finds out by itself
        **({"overwrite_image_reader_writer": file_format.reader} if file_format.ending == ".nii.gz" else {}),
    }
    (dataset.raw / "dataset.json").write_text(json.dumps(description))


def plan_and_preprocess_here(dataset: TinyDataset, cascade: dict[str, dict] | None = None, **tiny: Any) -> None:
    """Plans and preprocesses 2d in this process, `dataset.here()`, and adds the plans `tinyPlans` of a tiny VM-UNet.

    The command imports torch in each of its processes. The configurations `cascade` join the plans; `tiny` are options
    of `write_tiny_plans`.
    """
    api.extract_fingerprint_dataset(901, QuickFingerprint, 1, verbose=False, show_progress_bar=False)
    with mock.patch.dict(os.environ, nnUNet_n_proc_DA="1"):  # nnU-Net cannot plan with 0
        api.plan_experiment_dataset(901)
    write_tiny_plans(dataset, cascade=cascade or {}, **tiny)
    with_data = [name for name, configuration in (cascade or {}).items() if "data_identifier" in configuration]
    api.preprocess_dataset(901, PLANS, ["2d", *with_data], [1], show_progress_bar=False)


def write_tiny_plans(
    dataset: TinyDataset,
    *,
    patch_size: tuple[int, int] = (32, 40),
    batch_size: int = 2,
    cascade: dict[str, dict] | None = None,
) -> None:
    """Writes the plans `tinyPlans`: nnU-Net's, with a small patch, batch and VM-UNet in the configuration 2d.

    `cascade` holds further configurations.
    """
    plans = json.loads((dataset.preprocessed / "nnUNetPlans.json").read_text())
    plans["plans_name"] = PLANS
    plans["configurations"]["2d"].update(
        patch_size=list(patch_size),
        batch_size=batch_size,
        architecture={
            "network_class_name": "nnunetv2_dsvm.architecture.vm_unet.VMUNet",
            "arch_kwargs": NETWORK,
            "_kw_requires_import": [],
        },
    )
    plans["configurations"].update(cascade or {})
    (dataset.preprocessed / f"{PLANS}.json").write_text(json.dumps(plans, indent=1))


def make_tiny_dataset(root: Path, further: dict[str, dict] | None = None, **raw: Any) -> TinyDataset:
    """Writes, plans and preprocesses a dataset below `root`, with further configurations.

    Further options: see `write_raw_dataset`.
    """
    dataset = TinyDataset(Path(root))
    write_raw_dataset(dataset, **raw)
    with dataset.here():
        plan_and_preprocess_here(dataset, further)
    return dataset
