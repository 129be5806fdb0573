"""Plan a dataset for VM-UNet, as `nnUNetv2_dsvm plan` does."""

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import nnunetv2
import torch
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunetv2_dsvm.errors import UserError, check_choice
from nnunetv2_dsvm.files.places_to_write import check_folder_place
from nnunetv2_dsvm.host.devices import trains_in_bf16
from nnunetv2_dsvm.nnunet.folders import check_folder_variables
from nnunetv2_dsvm.nnunet.listing import nnunet_passing_over_litter
from nnunetv2_dsvm.nnunet.names import DATASET_JSON
from nnunetv2_dsvm.planning.memory import Precision
from nnunetv2_dsvm.planning.network_of_plans import sizes_in
from nnunetv2_dsvm.planning.planner import PLANS_NAME, DSVMPlanner, sizes_for
from nnunetv2_dsvm.planning.plans_name import check_plans_name

DEFAULT_TARGET_GB = 8.0
PLANNED = ("2d", "3d_lowres", "3d_fullres")  # by nnU-Net's planner, with a patch of their own


@dataclass(frozen=True)
class PlannedConfiguration:
    """What was planned for a configuration with a patch of its own.

    Attributes:
        patch_size: along each axis, in pixels or voxels.
        batch_size: images of a step.
        memory_gb: what a training is estimated to take on a GPU, in GB (10^9 bytes).
    """

    patch_size: tuple[int, ...]
    batch_size: int
    memory_gb: float


@dataclass(frozen=True)
class PlannedDataset:
    """What was planned for a dataset.

    Attributes:
        file: the plans, in nnU-Net's folder of the preprocessed dataset.
        preset: size of the network.
        configurations: by their names; "2d" always, and nnU-Net's 3D ones where images are volumes. Those that inherit,
            such as "3d_cascade_fullres", are left out.
        target_gb: what a training may take.
        precision: in which the GPU will train.
        for_cpu: the batches are for a CPU, which trains in fp32.
        said: what nnU-Net's planner printed.
    """

    file: Path
    preset: str
    configurations: dict[str, PlannedConfiguration]
    target_gb: float
    precision: Precision
    for_cpu: bool
    said: str

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Of the 2D configuration, (height, width) in pixels."""
        return self.configurations["2d"].patch_size

    @property
    def batch_size(self) -> int:
        """Of the 2D configuration."""
        return self.configurations["2d"].batch_size

    @property
    def memory_gb(self) -> float:
        """Of the 2D configuration."""
        return self.configurations["2d"].memory_gb


def plan(
    dataset_id: int,
    *,
    gpu_memory_target_gb: float | None = None,
    preset: str | None = None,
    precision: Precision | None = None,
    preprocessor_name: str = "DefaultPreprocessor",
    overwrite_target_spacing: Sequence[float] | None = None,
    plans_name: str = PLANS_NAME,
    patch_embedding_stride: int | None = None,
    fine_channels: int = 0,
) -> PlannedDataset:
    """Writes plans for VM-UNet: size of the network, patch and batch of each configuration by the GPU's memory.

    All else is nnU-Net's planning. Its fingerprint of the dataset must be there.

    Args:
        dataset_id: of a dataset below nnUNet_raw and nnUNet_preprocessed.
        gpu_memory_target_gb: memory of the GPU in GB (10^9 bytes); 8 by default.
        preset: size of the network; by default the largest for the target. Where there is no GPU and neither target nor
            precision is given, `"small"` is planned for the CPU.
        precision: what the GPU will train in; by default as the GPU that is here, else bfloat16.
        preprocessor_name: nnU-Net's class.
        overwrite_target_spacing: of nnU-Net's 3D configurations, in mm along three axes.
        plans_name: name of the plans, for `-p` of nnU-Net's commands.
        patch_embedding_stride: how much smaller than the image, along its finest axes, the network's first stage is; by
            default 4, the published one (`VMUNetSizes.with_patch_embedding_stride`).
        fine_channels: of the network's convolutional stages; 32 for nnUNetTrainerDSVM_fine, 0 for none.

    Raises:
        UserError: nnU-Net's variables cannot be used, an argument has a value that cannot be meant, the dataset or its
            fingerprint is missing, or nothing fits into the memory. No plans are written then.

    Examples:
        >>> from nnunetv2_dsvm import plan
        >>> planned = plan(901, preset="small", precision="bfloat16", plans_name="nnUNetPlans_small")
        >>> planned.file.name, planned.preset, planned.precision
        ('nnUNetPlans_small.json', 'small', 'bfloat16')
    """
    if precision is not None:
        check_choice("precision", precision, get_args(Precision))
    check_plan_arguments(
        [dataset_id],
        gpu_memory_target_gb=gpu_memory_target_gb,
        preset=preset,
        preprocessor_name=preprocessor_name,
        plans_name=plans_name,
        patch_embedding_stride=patch_embedding_stride,
        fine_channels=fine_channels,
    )
    target_gb = DEFAULT_TARGET_GB if gpu_memory_target_gb is None else gpu_memory_target_gb
    # Planning without a GPU is usual where the trainings run elsewhere. Only who asks for the size that is meant for
    # CPUs, and names no GPU by its memory or number format, gets plans for one.
    gpu_here, named = torch.cuda.is_available(), gpu_memory_target_gb is not None or precision is not None
    for_cpu = preset == "small" and not gpu_here and not named
    if precision is None:
        precision = "float16" if gpu_here and not trains_in_bf16(torch.device("cuda")) else "bfloat16"
    said = io.StringIO()
    try:
        with nnunet_passing_over_litter(), redirect_stdout(said):
            planner = DSVMPlanner(
                dataset_id,
                target_gb,
                preprocessor_name,
                plans_name,
                overwrite_target_spacing,
                preset=preset,
                precision=precision,
                for_cpu=for_cpu,
                patch_embedding_stride=patch_embedding_stride,
                fine_channels=fine_channels,
            )
            configurations = planner.plan_experiment()["configurations"]
    except FileNotFoundError as error:
        raise UserError(f"dataset {dataset_id}: {error}. A raw dataset has a dataset.json") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"dataset {dataset_id}: {error}") from error
    return PlannedDataset(
        file=Path(os.environ["nnUNet_preprocessed"], planner.dataset_name, f"{plans_name}.json"),
        preset=planner.preset,
        configurations={
            name: PlannedConfiguration(
                patch_size=tuple(configurations[name]["patch_size"]),
                batch_size=configurations[name]["batch_size"],
                memory_gb=planner.memory_gb(
                    configurations[name]["patch_size"],
                    configurations[name]["batch_size"],
                    sizes_in(configurations[name]["architecture"]["arch_kwargs"]),
                ),
            )
            for name in PLANNED
            if name in configurations
        },
        target_gb=target_gb,
        precision=precision,
        for_cpu=for_cpu,
        said=said.getvalue(),
    )


def check_plan_arguments(
    dataset_ids: Sequence[int],
    *,
    gpu_memory_target_gb: float | None,
    preset: str | None,
    preprocessor_name: str,
    plans_name: str,
    patch_embedding_stride: int | None = None,
    fine_channels: int = 0,
) -> None:
    """What can be said of `plan`'s arguments before anything is read or written, for several datasets at once.

    Raises:
        UserError: nnU-Net's variables are not set as they can be meant, or an argument's value is none.
    """
    check_folder_variables("raw", "preprocessed")
    check_plans_name(plans_name, "-overwrite_plans_name")
    try:
        target_gb = DEFAULT_TARGET_GB if gpu_memory_target_gb is None else gpu_memory_target_gb
        sizes_for(target_gb, preset, patch_embedding_stride, fine_channels)
    except ValueError as error:
        raise UserError(str(error)) from error
    preprocessed = Path(os.environ["nnUNet_preprocessed"])
    of_datasets = (path for i in dataset_ids for path in preprocessed.glob(f"Dataset{i:03d}_*"))
    for folder in (preprocessed, *of_datasets):
        files = (DATASET_JSON, f"{plans_name}.json") if folder != preprocessed else ()
        check_folder_place(folder, "let nnUNet_preprocessed name another folder", files)
    check_nnunet_class(preprocessor_name, "-preprocessor_name", "preprocessing")


def check_nnunet_class(name: str, option: str, package: str) -> None:
    """Raises UserError unless nnU-Net finds a class of this name below nnunetv2.`package`, where it looks for it."""
    folder = os.path.join(nnunetv2.__path__[0], *package.split("."))
    if recursive_find_python_class(folder, name, current_module=f"nnunetv2.{package}") is None:
        raise UserError(f"{option} {name}: nnU-Net has no such class in nnunetv2.{package}")
