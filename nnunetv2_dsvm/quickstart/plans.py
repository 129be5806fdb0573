"""nnU-Net's plans with a smaller network, patch and batch, under a name of their own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.files.json_files import write_json
from nnunetv2_dsvm.planning.architecture_entry import architecture_entry
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan


def write_reduced_plans(
    dataset_folder: Path,
    plans_name: str,
    *,
    network: Mapping[str, Any],
    largest_patch_size: Sequence[int],
    batch_size: int,
    source_plans_name: str = "nnUNetPlans",
    configuration_name: str = "2d",
) -> Path:
    """Derive a plans file of one configuration from nnU-Net's; what nnU-Net preprocessed for that serves it too.

    Args:
        dataset_folder: the dataset's folder below `nnUNet_preprocessed`.
        plans_name: the new plans' name, for `-p`.
        network: arguments of `VMUNet` besides the channels. In 3D the strides are the plans', for as many stages as
            these have, and the network's deepest stages are left out where they have fewer.
        largest_patch_size: along each axis in voxels of the plans' spacing; the planned patch is cut down to it.
        batch_size: patches per training step.
        source_plans_name: the plans to start from.
        configuration_name: which of them.

    Returns:
        The file written, `dataset_folder/plans_name.json`.
    """
    plans = json.loads((dataset_folder / f"{source_plans_name}.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"][configuration_name]
    configuration["patch_size"] = [
        min(planned, largest) for planned, largest in zip(configuration["patch_size"], largest_patch_size, strict=True)
    ]
    configuration["batch_size"] = batch_size
    if len(largest_patch_size) == 3:
        network = _with_strides(network, strides_of_plan(configuration["architecture"]["arch_kwargs"]["strides"]))
    configuration["architecture"] = architecture_entry(network)
    plans["plans_name"] = plans_name
    plans["configurations"] = {configuration_name: configuration}
    path = dataset_folder / f"{plans_name}.json"
    write_json(path, plans, indent=4)
    return path


def _with_strides(network: Mapping[str, Any], strides: Sequence[Sequence[int]]) -> dict[str, Any]:
    stages = min(len(network["dims"]), len(strides) - 1)
    return {
        **network,
        "dims": network["dims"][:stages],
        "encoder_depths": network["encoder_depths"][:stages],
        "decoder_depths": network["decoder_depths"][-stages:],
        "strides": strides[: stages + 1],
    }
