"""DSVMPlanner: nnU-Net's experiment planner, whose configurations are planned for VM-UNet."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.files.json_files import read_json_object, write_json
from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.planning.memory import GIGABYTE, Precision, largest_batch, training_memory
from nnunetv2_dsvm.planning.network_of_plans import check_varies, vm_unet_architecture, with_strides_of
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan

PLANS_NAME = "nnUNetDSVMPlans"
# From which memory target, in GB, which preset: the largest of them that leaves a batch of 8 and more at 512x512.
PRESET_FROM_GB = {0: "base", 12: "large", 24: "wide", 40: "deep", 80: "huge"}
# Images and pixels of a step on a CPU, which memory does not limit: about a second on two cores with the preset small.
_CPU_IMAGES, _CPU_PIXELS = 8, 2**19
_FINE_ON_A_CPU = 3  # so many times as long takes a step with `fine_channels`
_LARGEST_PATCH = {2: 2048**2, 3: 256**3}  # nnU-Net's first guess by the axes, in pixels
_SMALLEST_AXIS = {2: 1, 3: 16}  # a patch that is shortened becomes no shorter; less than that saves no memory in 3D
_ANY_NUMBER_OF_STEPS = 999999
_LOADERS = "nnUNet_n_proc_DA"


def preset_for(target_gb: float) -> str:
    """The preset of `VMUNet` for a memory target."""
    return PRESET_FROM_GB[max((gb for gb in PRESET_FROM_GB if gb <= target_gb), default=0)]


def sizes_for(
    target_gb: float, preset: str | None, patch_embedding_stride: int | None = None, fine_channels: int = 0
) -> tuple[str, VMUNetSizes]:
    """The preset, by the memory target where none is named, and the network's sizes in 2D.

    Raises:
        ValueError: the memory target is none, the preset is unknown, or there is no such network.
    """
    if not 0 < target_gb < float("inf"):
        raise ValueError(f"the GPU memory target must be a number above 0 GB, got {target_gb}")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    name = preset_for(target_gb) if preset is None else preset
    sizes = replace(_strided(PRESETS[name], patch_embedding_stride), fine_channels=fine_channels)
    check_varies(sizes)
    return name, sizes


def _strided(sizes: VMUNetSizes, patch_embedding_stride: int | None) -> VMUNetSizes:
    if patch_embedding_stride is None:
        return sizes
    return sizes.with_patch_embedding_stride(patch_embedding_stride)


@contextmanager
def _a_thread_to_plan_with() -> Iterator[None]:
    """nnU-Net's planner gives torch as many threads as a training has loading processes, of which there may be none."""
    if os.environ.get(_LOADERS) != "0":
        yield
        return
    os.environ[_LOADERS] = "1"
    try:
        yield
    finally:
        os.environ[_LOADERS] = "0"


class DSVMPlanner(ExperimentPlanner):
    """Plans for `VMUNet`: patch, batch and size of the network by the GPU's memory.

    Spacing, normalisation, resampling, which configurations there are and everything else are nnU-Net's. The patch
    starts, as nnU-Net's, at the median image's size and loses the longest axis, relative to the image, until two images
    fit: by multiples of the network's stride, in 3D by those of nnU-Net's own network for such a patch, from whose
    strides ours follow (`strides_of_plan`); and with the memory estimate of `nnunetv2_dsvm.planning.memory`. The batch
    fills the target, but as in nnU-Net covers no more than a twentieth of the dataset. On a CPU steps are small
    instead: at most eight images of 256x256, or two volumes of 64x64x64.

    Args:
        dataset_name_or_id: with a fingerprint in nnUNet_preprocessed.
        gpu_memory_target_in_gb: 10^9 bytes, CUDA's own included: what the card is sold with.
        preset: of `VMUNet`; None: by the target (`PRESET_FROM_GB`).
        precision: what the GPU will train in; the trainers take bf16 where it has it. fp16 takes about a quarter more.
        for_cpu: the training will run on a CPU; the target then limits the patch only.
        patch_embedding_stride: None: the published one; else that of `VMUNetSizes.with_patch_embedding_stride`.
        fine_channels: of the network's convolutional stages, see `VMUNetSizes`; 0: none, as published.
        plans_name, preprocessor_name, overwrite_target_spacing, suppress_transpose: as nnU-Net's.

    Raises:
        ValueError: an unknown preset, a network that cannot be, or not even two of the smallest patches fit into the
            target.
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
        patch_embedding_stride: int | None = None,
        fine_channels: int = 0,
    ) -> None:
        self.preset, self.sizes = sizes_for(gpu_memory_target_in_gb, preset, patch_embedding_stride, fine_channels)
        self.precision, self.for_cpu, self.patch_embedding_stride = precision, for_cpu, patch_embedding_stride
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
        with redirect_stdout(printed), _a_thread_to_plan_with():
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
        planned, kept = plans["configurations"], {}
        if path.is_file():
            there = read_json_object(path)["configurations"]
            kept = {name: configuration for name, configuration in there.items() if name not in planned}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**plans, "configurations": {**planned, **kept}}, indent=4)
        print(f"Plans were saved to {path}" + (f", which keeps its earlier {', '.join(kept)}" if kept else ""))

    def get_plans_for_configuration(
        self,
        spacing: np.ndarray,
        median_shape: np.ndarray,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict,
    ) -> dict[str, Any]:
        """nnU-Net's configuration with our patch, batch and architecture."""
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        patch_size, sizes = self._patch_size(np.asarray(spacing), np.asarray(median_shape))
        plan["patch_size"] = patch_size
        plan["batch_size"] = self._batch_size(patch_size, sizes, approximate_n_voxels_dataset)
        plan["architecture"] = vm_unet_architecture(sizes)
        return plan

    def memory_gb(self, patch_size: Sequence[int], batch_size: int, sizes: VMUNetSizes | None = None) -> float:
        """What a training is estimated to take, in GB; `sizes` are the network's in 2D where they are not given."""
        options = self._images_and_precision()
        return training_memory(patch_size, batch_size, sizes or self.sizes, **options) / GIGABYTE

    def _images_and_precision(self) -> dict[str, Any]:
        return {
            "input_channels": len(self.dataset_json.get("channel_names") or self.dataset_json["modality"]),
            "num_classes": len(self.dataset_json["labels"]),
            "precision": self.precision,
        }

    def _patch_size(self, spacing: np.ndarray, median_shape: np.ndarray) -> tuple[list[int], VMUNetSizes]:
        """The patch, and the network for it."""
        axes = len(spacing)
        per_mm = 1 / spacing
        largest = np.round(per_mm * (_LARGEST_PATCH[axes] / per_mm.prod()) ** (1 / axes))
        first = [min(a, b) for a, b in zip(largest, median_shape, strict=True)]
        patch, sizes, divisor = self._for_network(spacing, first)
        while self._is_too_large(patch, sizes):
            candidates = [axis for axis in range(axes) if patch[axis] > max(divisor[axis], _SMALLEST_AXIS[axes])]
            if not candidates:
                raise ValueError(self._does_not_fit(patch, sizes))
            axis = max(candidates, key=lambda axis: patch[axis] / median_shape[axis])
            smaller = list(patch)
            smaller[axis] -= divisor[axis]
            if axes == 3:  # a smaller axis may be halved less often, and then a size in between is possible too
                smaller[axis] = patch[axis] - self._for_network(spacing, smaller)[2][axis]
            patch, sizes, divisor = self._for_network(spacing, smaller)
        return patch, sizes

    def _for_network(
        self, spacing: np.ndarray, patch_size: Sequence[float]
    ) -> tuple[list[int], VMUNetSizes, Sequence[int]]:
        """The patch rounded up to what the network divides, the network, and what that is along each axis.

        In 3D nnU-Net's own network for such a patch decides; ours divides no more.
        """
        if len(spacing) == 2:
            sizes, divisor = self.sizes, self.sizes.stage_strides[-1]
        else:
            # nnU-Net's rule for its own networks: no axis of the deepest features shorter than four
            _, strides, _, _, divisor = get_pool_and_conv_props(
                spacing, patch_size, self.UNet_featuremap_min_edge_length, _ANY_NUMBER_OF_STEPS
            )
            sizes = _strided(with_strides_of(self.sizes, strides_of_plan(strides)), self.patch_embedding_stride)
        return [int(-(-size // step) * step) for size, step in zip(patch_size, divisor, strict=True)], sizes, divisor

    def _is_too_large(self, patch: Sequence[int], sizes: VMUNetSizes) -> bool:
        if self.for_cpu and len(patch) == 3 and self.UNet_min_batch_size * np.prod(patch) > self._cpu_pixels:
            return True
        return self._largest_batch(patch, sizes) < self.UNet_min_batch_size

    def _does_not_fit(self, patch: Sequence[int], sizes: VMUNetSizes) -> str:
        smaller = list(PRESETS)[: list(PRESETS).index(self.preset)]  # PRESETS ascends
        fine = f" and fine_channels {sizes.fine_channels}" if sizes.fine_channels else ""
        return (
            f"a training of the preset {self.preset!r}{fine} with {self.UNet_min_batch_size} images of "
            f"{by(patch)} pixels takes {self.memory_gb(patch, self.UNet_min_batch_size, sizes):.1f} GB, "
            f"more than the target of {self.UNet_vram_target_GB:g} GB: raise -gpu_memory_target"
            + (", plan fewer -fine_channels" if fine else "")
            + (f" or choose a smaller -preset ({', '.join(smaller)})" if smaller else "")
        )

    def _batch_size(self, patch_size: Sequence[int], sizes: VMUNetSizes, voxels_of_dataset: float) -> int:
        covered = round(voxels_of_dataset * self.max_dataset_covered / np.prod(patch_size))
        largest = self._largest_batch(patch_size, sizes)
        if self.for_cpu:
            largest = min(largest, _CPU_IMAGES, self._cpu_pixels // int(np.prod(patch_size)))
        return max(self.UNet_min_batch_size, min(largest, covered))

    @property
    def _cpu_pixels(self) -> int:
        return _CPU_PIXELS // (_FINE_ON_A_CPU if self.sizes.fine_channels else 1)

    def _largest_batch(self, patch_size: Sequence[int], sizes: VMUNetSizes) -> int:
        target = self.UNet_vram_target_GB * GIGABYTE
        return largest_batch(target, patch_size, sizes, **self._images_and_precision())
