"""DSVMPlanner: nnU-Net's experiment planner, whose 2D configuration is planned for VM-UNet."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.files.json_files import read_json_object, write_json
from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.planning.memory import GIGABYTE, Precision, largest_batch, training_memory
from nnunetv2_dsvm.planning.network_of_plans import vm_unet_architecture

PLANS_NAME = "nnUNetDSVMPlans"
# From which memory target, in GB, which preset: the largest of them that leaves a batch of 8 and more at 512x512.
PRESET_FROM_GB = {0: "base", 12: "large", 24: "wide", 40: "deep", 80: "huge"}
# Images and pixels of a step on a CPU, which memory does not limit: about a second on two cores with the preset small.
_CPU_IMAGES, _CPU_PIXELS = 8, 2**19
_LARGEST_AREA = 2048**2  # nnU-Net's first guess at a 2D patch


def preset_for(target_gb: float) -> str:
    """The preset of `VMUNet` for a memory target."""
    return PRESET_FROM_GB[max((gb for gb in PRESET_FROM_GB if gb <= target_gb), default=0)]


def check_size(target_gb: float, preset: str | None) -> None:
    """Raises ValueError unless the memory target is one and the preset, if there is one, is known."""
    if not 0 < target_gb < float("inf"):
        raise ValueError(f"the GPU memory target must be a number above 0 GB, got {target_gb}")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")


class DSVMPlanner(ExperimentPlanner):
    """Plans for `VMUNet`: patch, batch and size of the network by the GPU's memory.

    Spacing, normalisation, resampling and everything else are nnU-Net's, as are its 3D configurations, which keep its
    own network. In the 2D configuration the patch starts, as nnU-Net's, at the median image's size and loses the
    longest axis, relative to the image, until two images fit; here by multiples of the network's stride, and with a
    memory estimate that was measured (`nnunetv2_dsvm.planning.memory`). The batch fills the target, but as in nnU-Net
    covers no more than a twentieth of the dataset. On a CPU it is small instead: at most eight images of 256x256.

    Args:
        dataset_name_or_id: with a fingerprint in nnUNet_preprocessed.
        gpu_memory_target_in_gb: 10^9 bytes, CUDA's own included: what the card is sold with.
        preset: of `VMUNet`; None: by the target (`PRESET_FROM_GB`).
        precision: what the GPU will train in; the trainers take bf16 where it has it. fp16 takes a little more.
        for_cpu: the training will run on a CPU; the target then limits the patch only.
        plans_name, preprocessor_name, overwrite_target_spacing, suppress_transpose: as nnU-Net's.

    Raises:
        ValueError: an unknown preset, or not even two of the smallest patches fit into the target.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = PLANS_NAME,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
        *,
        preset: str | None = None,
        precision: Precision = "bfloat16",
        for_cpu: bool = False,
    ) -> None:
        self.preset = preset_for(gpu_memory_target_in_gb) if preset is None else preset
        check_size(gpu_memory_target_in_gb, self.preset)
        self.sizes, self.precision, self.for_cpu = PRESETS[self.preset], precision, for_cpu
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )

    def plan_experiment(self) -> dict[str, Any]:
        """nnU-Net's planning; of what it prints, which holds NumPy's arrays, the configurations are printed anew."""
        printed = io.StringIO()
        with redirect_stdout(printed):
            plans = super().plan_experiment()
        for name, configuration in plans["configurations"].items():  # made plain when they were saved
            print(f"{name}: {configuration}\n")
        for line in printed.getvalue().splitlines():
            if line.startswith(("WARNING", "Plans were saved")):
                print(line)
        return plans

    def save_plans(self, plans: dict[str, Any]) -> None:
        """As nnU-Net's: a plans file that is there keeps its other configurations. Written in one step."""
        recursive_fix_for_json_export(plans)
        path = Path(nnUNet_preprocessed, self.dataset_name, f"{self.plans_identifier}.json")
        if path.is_file():
            for name, configuration in read_json_object(path)["configurations"].items():
                plans["configurations"].setdefault(name, configuration)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plans, indent=4)
        print(f"Plans were saved to {path}")

    def get_plans_for_configuration(
        self,
        spacing: np.ndarray,
        median_shape: np.ndarray,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict,
    ) -> dict[str, Any]:
        """nnU-Net's configuration; for 2D with our patch, batch and architecture."""
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        if len(spacing) == 2:
            patch_size = self._patch_size(np.asarray(spacing), np.asarray(median_shape))
            plan["patch_size"] = patch_size
            plan["batch_size"] = self._batch_size(patch_size, approximate_n_voxels_dataset)
            plan["architecture"] = vm_unet_architecture(self.sizes)
        return plan

    def memory_gb(self, patch_size: Sequence[int], batch_size: int) -> float:
        """What a training is estimated to take, in GB."""
        return training_memory(patch_size, batch_size, self.sizes, **self._images_and_precision()) / GIGABYTE

    def _images_and_precision(self) -> dict[str, Any]:
        return {
            "input_channels": len(self.dataset_json.get("channel_names") or self.dataset_json["modality"]),
            "num_classes": len(self.dataset_json["labels"]),
            "precision": self.precision,
        }

    def _patch_size(self, spacing: np.ndarray, median_shape: np.ndarray) -> list[int]:
        stride = max(self.sizes.stage_strides[-1])
        per_mm = 1 / spacing
        largest = np.round(per_mm * (_LARGEST_AREA / per_mm.prod()) ** 0.5)
        patch = [int(-(-min(a, b) // stride) * stride) for a, b in zip(largest, median_shape, strict=True)]
        while self._largest_batch(patch) < self.UNet_min_batch_size:
            axes = [axis for axis in range(2) if patch[axis] > stride]
            if not axes:
                smaller = list(PRESETS)[: list(PRESETS).index(self.preset)]  # PRESETS ascends
                raise ValueError(
                    f"a training of the preset {self.preset!r} with {self.UNet_min_batch_size} images of "
                    f"{by(patch)} pixels takes {self.memory_gb(patch, self.UNet_min_batch_size):.1f} GB, "
                    f"more than the target of {self.UNet_vram_target_GB:g} GB: raise -gpu_memory_target"
                    + (f" or choose a smaller -preset ({', '.join(smaller)})" if smaller else "")
                )
            patch[max(axes, key=lambda axis: patch[axis] / median_shape[axis])] -= stride
        return patch

    def _batch_size(self, patch_size: Sequence[int], voxels_of_dataset: float) -> int:
        covered = round(voxels_of_dataset * self.max_dataset_covered / np.prod(patch_size))
        largest = self._largest_batch(patch_size)
        if self.for_cpu:
            largest = min(largest, _CPU_IMAGES, _CPU_PIXELS // int(np.prod(patch_size)))
        return max(self.UNet_min_batch_size, min(largest, covered))

    def _largest_batch(self, patch_size: Sequence[int]) -> int:
        target = self.UNet_vram_target_GB * GIGABYTE
        return largest_batch(target, patch_size, self.sizes, **self._images_and_precision())
