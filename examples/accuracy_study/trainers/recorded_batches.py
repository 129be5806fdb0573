"""Batches that are augmented once, for all trainings of a data set, configuration, fold and seed, which only read them.

Augmenting takes a training longer than its GPU takes for the rest. `record.py` writes the batches as files, and the
study's trainers read them in the same order, each from where it stands.
"""

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.cluster.locks import owner_of
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import beside

BATCHES = "ACCURACY_STUDY_BATCHES"  # variable: the folder of all of them; unset: each training augments its own
PART = 50  # batches in a file
LOCK = ".lock"  # in their folder, of the process that writes them
PATIENCE_S = 60.0  # for that process to begin
TRAINING, VALIDATION = "training", "validation"
STREAMS = "Dataset*-b*-f*-s*"  # the names that `stream_of` gives


def stream_of(trainer: nnUNetTrainer) -> str:
    """The name of what trainings with equal batches share; of a trainer with a seed."""
    configuration = trainer.configuration_manager
    patch = "x".join(map(str, configuration.patch_size))
    return "-".join([
        trainer.plans_manager.dataset_name, configuration.data_identifier, patch, f"b{configuration.batch_size}",
        f"f{trainer.fold}", f"s{trainer.seed}",
    ])  # fmt: skip


def part_file(folder: Path, kind: str, part: int) -> Path:
    return folder / f"{kind}_{part:05}.pt"


def record(loader: Iterator[dict[str, Any]], folder: Path, kind: str, part: int) -> None:
    """Writes a part, the same whenever it is written, but for roundings of nnU-Net's, which times how to blur.

    Images are kept as float16, as fine as what autocast makes of them before the first convolution, also for those who
    train in fp32; labels as int8.

    Args:
        loader: of nnU-Net, in this process and without deep supervision.
        folder: of the stream.
        kind: TRAINING or VALIDATION.
        part: counted from 0, of `PART` batches.
    """
    seed = zlib.crc32(f"{folder.name} {kind} {part}".encode())
    np.random.seed(seed)
    torch.manual_seed(seed)
    images, labels = list[torch.Tensor](), list[torch.Tensor]()
    for _ in range(PART):
        batch = next(loader)
        images.append(batch["data"].half())
        labels.append(batch["target"].to(torch.int8))
    folder.mkdir(parents=True, exist_ok=True)
    path = part_file(folder, kind, part)
    with beside(path) as partial:  # and not flushed to the disk: it can be written again
        torch.save({"images": torch.stack(images), "labels": torch.stack(labels)}, partial / path.name)
        os.replace(partial / path.name, path)


class RecordedBatches(Iterator[dict[str, Any]]):
    """What nnU-Net's loaders would bring, from files that may still be in the making.

    Args:
        folder: of the stream.
        kind: TRAINING or VALIDATION.
        first: the batch to begin with.
        scales: of deep supervision, as nnU-Net has them; None without.
    """

    def __init__(self, folder: Path, kind: str, first: int, scales: list[list[float]] | None) -> None:
        self._folder, self._kind, self._next = folder, kind, first
        self._smaller = None if scales is None else DownsampleSegForDSTransform(scales)
        self._open: tuple[int, dict[str, torch.Tensor]] = (-1, {})

    def __next__(self) -> dict[str, Any]:
        part, place = divmod(self._next, PART)
        if self._open[0] != part:
            self._open = (part, torch.load(self._written(part), weights_only=True, mmap=True))
        self._next += 1
        images, labels = self._open[1]["images"][place], self._open[1]["labels"][place]
        return {"data": images.float(), "target": self._targets(labels.short())}

    def _targets(self, labels: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """(batch, 1, *patch), and smaller ones as nnU-Net's transform makes them of each image."""
        if self._smaller is None:
            return labels
        as_channels = self._smaller(segmentation=labels.flatten(0, 1))["segmentation"]
        return [target.unflatten(0, labels.shape[:2]) for target in as_channels]

    def _written(self, part: int) -> Path:
        path, seen = part_file(self._folder, self._kind, part), time.monotonic()
        while not path.is_file():
            if owner_of(self._folder.parent / LOCK) is not None:
                seen = time.monotonic()
            elif time.monotonic() > seen + PATIENCE_S:
                raise UserError(
                    f"nobody writes {path}: batches.log in the study's folder of nnUNet_results says why; run.py "
                    f"without --batches (and without the variable {BATCHES}) lets each training augment its own"
                )
            time.sleep(0.05)
        return path


def recorded(trainer: nnUNetTrainer) -> tuple[RecordedBatches, RecordedBatches]:
    """The trainer's loaders for training and validation, from its current epoch on."""
    folder, scales = Path(os.environ[BATCHES]) / stream_of(trainer), trainer._get_deep_supervision_scales()
    lengths = {TRAINING: trainer.num_iterations_per_epoch, VALIDATION: trainer.num_val_iterations_per_epoch}
    training, validation = (
        RecordedBatches(folder, kind, trainer.current_epoch * length, scales) for kind, length in lengths.items()
    )
    return training, validation
