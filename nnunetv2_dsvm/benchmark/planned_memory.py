"""The planner's memory estimate beside what the planned trainings take."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.benchmark.cases.training_memory import TrainingCase, TrainingPeak, measure_training_memory
from nnunetv2_dsvm.benchmark.measuring.isolated import run_isolated
from nnunetv2_dsvm.files.text import last_line
from nnunetv2_dsvm.planning.memory import GIGABYTE, Precision, largest_batch, training_memory
from nnunetv2_dsvm.planning.network_of_plans import with_strides_of
from nnunetv2_dsvm.planning.planner import PRESET_FROM_GB, preset_for

_TARGETS_GB = (8, *(gb for gb in PRESET_FROM_GB if gb > 8))


class _Images(NamedTuple):
    """Images or volumes to plan for; the strides are those that nnU-Net's plans lead to, () the published ones."""

    patch_size: tuple[int, ...]
    precision: Precision
    input_channels: int
    num_classes: int
    strides: tuple[tuple[int, ...], ...] = ()


# None is among those that the estimate was made from or compared with; nor are the volumes' strides.
_IMAGES = (
    _Images((640, 416), "bfloat16", 1, 9),
    _Images((160, 224), "bfloat16", 3, 2),
    _Images((288, 352), "bfloat16", 1, 61),
    _Images((96, 128), "float16", 1, 4),
    _Images((112, 160, 160), "bfloat16", 1, 3, ((1, 1, 1), (4, 4, 4), (2, 2, 2), (2, 2, 2), (1, 2, 2))),
    _Images((48, 160, 192), "bfloat16", 1, 4, ((1, 1, 1), (2, 4, 4), (2, 2, 2), (2, 2, 2), (1, 2, 2))),
    _Images((96, 96, 96), "float16", 2, 3, ((1, 1, 1), (4, 4, 4), (2, 2, 2), (2, 2, 2))),
)


@dataclass(frozen=True)
class PlannedTraining:
    """One training that fills a memory target, and once it has been measured what it took, or why that is not known."""

    target_gb: float
    preset: str
    patch_size: tuple[int, ...]
    batch_size: int
    precision: Precision
    input_channels: int
    num_classes: int
    strides: tuple[tuple[int, ...], ...] = ()
    peak: TrainingPeak | str = ""

    @property
    def sizes(self) -> VMUNetSizes:
        """The preset's, with the strides."""
        return _sizes(self.preset, self.strides)

    @property
    def planned(self) -> float:
        """Bytes."""
        return training_memory(
            self.patch_size, self.batch_size, self.sizes,
            input_channels=self.input_channels, num_classes=self.num_classes, precision=self.precision,
        )  # fmt: skip

    @property
    def took_more(self) -> bool:
        return isinstance(self.peak, str) or self.peak.total > self.planned

    def case(self) -> TrainingCase:
        labels = {"background": 0, **{f"class {i}": i for i in range(1, self.num_classes)}}
        return TrainingCase(
            self.patch_size, self.batch_size, dict(self.sizes), self.precision, self.input_channels, labels
        )

    def as_row(self) -> dict[str, Any]:
        """For JSON, in bytes."""
        return {**asdict(self), "planned": self.planned}


def planned_trainings(memory: int) -> list[PlannedTraining]:
    """What is measured on a GPU of `memory` bytes: each target that fits, with each of the images and volumes."""
    found = []
    for target in (gb for gb in _TARGETS_GB if gb * GIGABYTE <= memory):
        preset = preset_for(target)
        for patch_size, precision, channels, classes, strides in _IMAGES:
            images = {"input_channels": channels, "num_classes": classes, "precision": precision}
            batch = largest_batch(target * GIGABYTE, patch_size, _sizes(preset, strides), **images)
            found.append(PlannedTraining(target, preset, patch_size, batch, precision, channels, classes, strides))
    return found


def _sizes(preset: str, strides: Sequence[Sequence[int]]) -> VMUNetSizes:
    return with_strides_of(PRESETS[preset], strides) if strides else PRESETS[preset]


def measure_planned(progress: Callable[[str], None]) -> Iterator[PlannedTraining]:
    """The trainings with what they took, each in a process of its own; nothing else may use the GPU meanwhile."""
    for training in planned_trainings(torch.cuda.get_device_properties(0).total_memory):
        progress(f"memory: {training.target_gb} GB, {training.patch_size}, {training.precision}")
        try:
            yield replace(training, peak=run_isolated(measure_training_memory, training.case()))
        except Exception as error:
            yield replace(training, peak=f"{type(error).__name__}: {last_line(error)}")
