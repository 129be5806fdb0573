"""nnU-Net's plans with a smaller network, patch and batch, under a name of their own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.files.json_files import write_json
from nnunetv2_dsvm.planning.architecture_entry import architecture_entry


def write_reduced_plans(
    dataset_folder: Path,
    plans_name: str,
    *,
    network: Mapping[str, Any],
    largest_patch_size: Sequence[int],
    batch_size: int,
    source_plans_name: str = "nnUNetPlans",
) -> Path:
    """Derive a 2D plans file from nnU-Net's; what nnU-Net preprocessed for the first serves the second too.

    Args:
        dataset_folder: the dataset's folder below `nnUNet_preprocessed`.
        plans_name: the new plans' name, for `-p`.
        network: arguments of `VMUNet` besides the channels.
        largest_patch_size: (height, width) in voxels of the plans' spacing; the planned patch is cut down to it.
        batch_size: patches per training step.
        source_plans_name: the plans to start from.

    Returns:
        The file written, `dataset_folder/plans_name.json`.
    """
    plans = json.loads((dataset_folder / f"{source_plans_name}.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"]["2d"]
    configuration["patch_size"] = [
        min(planned, largest) for planned, largest in zip(configuration["patch_size"], largest_patch_size, strict=True)
    ]
    configuration["batch_size"] = batch_size
    configuration["architecture"] = architecture_entry(network)
    plans["plans_name"] = plans_name
    plans["configurations"] = {"2d": configuration}
    path = dataset_folder / f"{plans_name}.json"
    write_json(path, plans, indent=4)
    return path
