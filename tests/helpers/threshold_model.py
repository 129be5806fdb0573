"""A trained model of a trainer that is not ours, whose labels are known from the image: 0 below 75, 1, 2 above 150."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

ARCHITECTURE = {
    "network_class_name": "torch.nn.Identity",  # which the trainer does not look at
    "arch_kwargs": {},
    "_kw_requires_import": [],
}


class nnUNetTrainerThreshold(nnUNetTrainer):
    """Its network weighs each voxel alone."""

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        convolution = nn.Conv3d if len(configuration_manager.patch_size) == 3 else nn.Conv2d
        return convolution(num_input_channels, num_output_channels, 1)


class nnUNetTrainerOfOldNnUNet(nnUNetTrainer):
    """The arguments that nnU-Net gave it before it gave the plans."""

    @staticmethod
    def build_network_architecture(
        architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import, num_input_channels,
        num_output_channels, enable_deep_supervision=True,
    ):  # fmt: skip
        return nn.Conv2d(num_input_channels, num_output_channels, 1)


class nnUNetTrainerAsleep(nnUNetTrainerThreshold):
    """Its network does not come to an end."""

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, *sizes, enable_deep_supervision=True):
        network = nnUNetTrainerThreshold.build_network_architecture(plans_manager, configuration_manager, *sizes)
        network.register_forward_hook(lambda *_: time.sleep(600))
        return network


def make_threshold_model(
    parent: Path,
    *,
    channels: Sequence[str] = ("CT",),
    labels: Mapping[str, int | list[int]] | None = None,
    folds: Sequence[int | str] = (0,),
    spacing_mm: Sequence[float] = (1.1, 0.8),
    file_ending: str = ".nii.gz",
    reader: str = "SimpleITKIO",
    trainer: type[nnUNetTrainer] = nnUNetTrainerThreshold,
    shift: float = 0,
    **configuration: object,
) -> Path:
    """The folder of a trained model below `parent`, as nnU-Net leaves it.

    Args:
        labels: by default liver and my_label; a region of `[1, 2]` makes the model one of regions.
        spacing_mm: that the model was trained in; three lengths for a 3D model.
        shift: of both thresholds.
    """
    labels = labels or {"background": 0, "liver": 1, "my_label": 2}
    regions = any(isinstance(value, list) for value in labels.values())
    name = "2d" if len(spacing_mm) == 2 else "3d_fullres"
    folder = parent / f"{trainer.__name__}__nnUNetPlans__{name}"
    folder.mkdir(parents=True)
    n = len(channels)
    plans = {
        "dataset_name": "Dataset950_Thresholds",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.5, 1.1, 0.8],
        "original_median_shape_after_transp": [7, 26, 22],
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(i): {"max": 1000, "mean": shift, "median": 0, "min": -1000, "percentile_00_5": -1000,
                     "percentile_99_5": 1000, "std": 100} for i in range(n)
        },
        "configurations": {
            name: {
                "data_identifier": f"nnUNetPlans_{name}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [16, 16] if name == "2d" else [6, 16, 16],
                "median_image_size_in_voxels": [26, 22],
                "spacing": list(spacing_mm),
                "normalization_schemes": ["CTNormalization"] * n,
                "use_mask_for_norm": [False] * n,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 0, "order_z": 0, "force_separate_z": None},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {
                    "is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None
                },
                "batch_dice": False,
                "architecture": ARCHITECTURE,
                **configuration,
            }
        },
    }  # fmt: skip
    dataset_json = {
        "channel_names": {str(i): channel for i, channel in enumerate(channels)},
        "labels": dict(labels),
        **({"regions_class_order": [1, 2]} if regions else {}),
        "numTraining": 1,
        "file_ending": file_ending,
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    # In units of 100: 0 below 0.75, 1, 2 above 1.5; of regions a logit each.
    slopes, offsets = ([10.0, 10], [-7.5, -15]) if regions else ([0.0, 10, 20], [0.0, -7.5, -22.5])
    axes = (1,) * (2 if name == "2d" else 3)
    weight = torch.tensor(slopes).reshape(-1, 1, *axes) / n
    weights = {"weight": weight.expand(-1, n, *axes).contiguous(), "bias": torch.tensor(offsets)}
    for fold in folds:
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": weights,
            "init_args": {"configuration": name, "fold": fold},
            "trainer_name": trainer.__name__,
            "inference_allowed_mirroring_axes": (0, 1),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def folder_of_trainers(folder: Path) -> Path:
    """What the variable nnUNet_extTrainer names, so that nnU-Net finds the trainers of this file."""
    folder.mkdir()
    (folder / "threshold_trainers.py").write_text("from helpers.threshold_model import *\n")
    return folder
