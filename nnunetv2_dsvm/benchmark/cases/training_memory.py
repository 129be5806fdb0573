"""What a training by nnU-Net really takes of a GPU: the trainer's own steps, on images drawn at random."""

import contextlib
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunetv2_dsvm.benchmark.measuring.memory import inside_cuda_graphs
from nnunetv2_dsvm.planning.architecture_entry import architecture_entry
from nnunetv2_dsvm.planning.memory import Precision

_DATASET, _CONFIGURATION = "Dataset001_Memory", "planned"
_TRAINING_STEPS, _VALIDATION_STEPS = 8, 4  # before and after each other, until all CUDA graphs are recorded


@dataclass(frozen=True)
class TrainingCase:
    """A training of nnUNetTrainerDSVM.

    Attributes:
        patch_size: along each of 2 or 3 axes, in pixels.
        architecture: arguments of VMUNet beside channels and classes, as plans hold them.
        precision: of autocast.
        labels: of nnU-Net's dataset.json.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    architecture: dict[str, Any]
    precision: Precision = "bfloat16"
    input_channels: int = 1
    labels: dict[str, Any] | None = None  # by default background and seven
    regions_class_order: tuple[int, ...] | None = None

    def dataset_json(self) -> dict[str, Any]:
        labels = self.labels or {"background": 0, **{f"organ {i}": i for i in range(1, 8)}}
        order = {} if self.regions_class_order is None else {"regions_class_order": list(self.regions_class_order)}
        channels = {str(i): "MR" for i in range(self.input_channels)}
        return {"channel_names": channels, "labels": labels, **order, "numTraining": 1, "file_ending": ".nii.gz"}

    def write_dataset_folder(self, preprocessed: Path) -> None:
        """nnU-Net reads from the name of a preprocessed file how files are stored, before it needs one."""
        (preprocessed / _DATASET / "none").mkdir(parents=True)
        (preprocessed / _DATASET / "none" / "none.b2nd").touch()

    def plans(self) -> dict[str, Any]:
        """The least that nnU-Net's trainer reads."""
        configuration = {
            "data_identifier": "none",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": self.batch_size,
            "patch_size": list(self.patch_size),
            "spacing": [1.0] * len(self.patch_size),
            "batch_dice": True,
            "architecture": architecture_entry(self.architecture),
        }
        return {
            "dataset_name": _DATASET,
            "plans_name": "memory",
            "configurations": {_CONFIGURATION: configuration},
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "label_manager": "LabelManager",
            "continue_training": False,
        }


@dataclass(frozen=True)
class TrainingPeak:
    """Bytes.

    Attributes:
        allocated: the largest sum of torch's tensors, and all that recorded CUDA graphs hold.
        reserved: what torch took from the GPU.
        context: what CUDA and its libraries took beside it.
    """

    allocated: int
    reserved: int
    context: int

    @property
    def total(self) -> int:
        """What the GPU no longer has for others."""
        return self.reserved + self.context


def measure_training_memory(case: TrainingCase) -> TrainingPeak:
    """Trains some steps in this process, which should have done nothing else before and be alone on the GPU.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    device = torch.device("cuda")
    trainer = train_some_steps(case, device)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    peak = TrainingPeak(
        torch.cuda.max_memory_allocated() + inside_cuda_graphs(device),
        torch.cuda.max_memory_reserved(),
        total - free - torch.cuda.memory_reserved(),
    )
    del trainer  # until here its graphs were there
    return peak


def train_some_steps(case: TrainingCase, device: torch.device) -> Any:
    """The trainer after training and validation steps, each kind before and after the other."""
    folder = tempfile.TemporaryDirectory()
    os.environ.update({f"nnUNet_{name}": folder.name for name in ("raw", "preprocessed", "results")})
    case.write_dataset_folder(Path(folder.name))
    from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
    from nnunetv2_dsvm.training.precision import Precision as TrainerPrecision
    from nnunetv2_dsvm.training.precision import cuda_autocast, training_dtype

    planned: TrainerPrecision = "bf16" if case.precision == "bfloat16" else "fp16"

    class PlannedTrainer(nnUNetTrainerDSVM):
        precision = planned

    with (
        folder,
        contextlib.redirect_stdout(io.StringIO()),
        cuda_autocast(training_dtype(device, planned)),
    ):
        trainer = PlannedTrainer(case.plans(), _CONFIGURATION, 0, case.dataset_json(), device)
        trainer.initialize()
        batch = _batch(case, trainer.label_manager)
        for _ in range(2):
            trainer.on_train_epoch_start()
            for _ in range(_TRAINING_STEPS):
                trainer.train_step(batch)
            trainer.on_validation_epoch_start()
            for _ in range(_VALIDATION_STEPS):
                trainer.validation_step(batch)
    return trainer


def _batch(case: TrainingCase, label_manager: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(case.batch_size, case.input_channels, *case.patch_size, generator=generator)
    shape = (case.batch_size, 1, *case.patch_size)
    if label_manager.has_regions:
        channels = len(label_manager.foreground_regions) + label_manager.has_ignore_label
        target = torch.randint(2, (case.batch_size, channels, *case.patch_size), generator=generator)
    else:
        target = torch.randint(len(label_manager.all_labels), shape, generator=generator)
    return {"data": images, "target": target.to(torch.int16), "keys": ["random"] * case.batch_size}
