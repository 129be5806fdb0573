"""A copy of plans under a name of its own, with another network, patch or batch where that is asked for."""

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_dsvm.architecture.vm_unet_sizes import ADDITIONS, REPLACED_BY_FINE_STAGES, VMUNetSizes
from nnunetv2_dsvm.errors import UserError, UserValueError
from nnunetv2_dsvm.files.json_files import write_json
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.nnunet.names import OTHER_FILES_OF_A_DATASET
from nnunetv2_dsvm.planning.network_of_plans import (
    NETWORKS,
    build_vm_unet,
    check_output_varies,
    planned_sizes,
    planned_strides,
    sizes_in,
    vm_unet_architecture,
    with_strides_of,
)


def copy_plans(
    dataset_folder: Path,
    source: str,
    name: str,
    *,
    configuration: str = "2d",
    network: Mapping[str, Any] | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> Path:
    """Writes plans under another name, inside the file too, after which nnU-Net names the results.

    The preprocessed data stay those of the source: nothing that is changed here changes them.

    Args:
        dataset_folder: the dataset's folder below nnUNet_preprocessed.
        source: name of the plans to copy.
        name: of the copy.
        configuration: the one that is changed.
        network: arguments of `VMUNet` besides channels and classes; None: the source's network. Where it does not name
            them, strides, stem, `fine_channels` and the like are those of the source, if that is for a VM-UNet. In 3D
            strides that it does not name are the source's in any case, for as many stages as both have.
        patch_size: along each axis, in pixels or voxels; None: the source's.
        batch_size: images in a step; None: the source's.

    Returns:
        The file written, `dataset_folder/name.json`.

    Raises:
        UserError: there are no such plans, the copy's file is there already, or the network's sizes do not fit.
    """
    plans = _read(dataset_folder, source)
    configurations = plans["configurations"]
    if configuration not in configurations:
        raise UserError(f"{source} has no configuration {configuration}; it has {', '.join(configurations)}")
    changed, source_configuration = configurations[configuration], _resolved(plans, configuration)
    axes = len(source_configuration.patch_size)
    if patch_size is not None and len(patch_size) != axes:
        raise UserError(f"a patch of {by(patch_size)} for {configuration}, which needs {axes} numbers, one an axis")
    try:
        if network is not None:
            changed["architecture"] = vm_unet_architecture(_as_the_source(network, source_configuration))
        if patch_size is not None:
            changed["patch_size"] = list(patch_size)
        if batch_size is not None:
            changed["batch_size"] = batch_size
        if network is not None or patch_size is not None:
            _check_can_be_built(_resolved(plans, configuration))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    plans["plans_name"] = name
    path = dataset_folder / f"{name}.json"
    try:
        write_json(path, plans, indent=4, new=True)
    except FileExistsError as error:
        raise UserError(f"{path} is there already: choose another name, or remove it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def sizes_in_plans(plans: Path, configuration: str) -> VMUNetSizes:
    """Of the VM-UNet of a configuration; the published ones where it is for another network."""
    return _own_sizes(_resolved(_read(plans.parent, plans.stem), configuration))


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(plans["configurations"], dict):
            raise TypeError
    except FileNotFoundError as error:
        names = [file.stem for file in visible_files(folder, ".json")]
        there = sorted(set(names) - set(OTHER_FILES_OF_A_DATASET))
        raise UserError(f"there are no plans {name} in {folder}; there are {', '.join(there) or 'none'}") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read as plans of nnU-Net: {error!r}") from error
    return plans


def _resolved(plans: dict[str, Any], configuration: str) -> ConfigurationManager:
    """With what it inherits."""
    return PlansManager(copy.deepcopy(plans)).get_configuration(configuration)


def _as_the_source(network: Mapping[str, Any], source: ConfigurationManager) -> Mapping[str, Any]:
    """With what the source's VM-UNet has of ours, and its strides, where the network does not name them."""
    own, named = _own_sizes(source), {name: value for name, value in network.items() if value is not None}
    kept = {name: own[name] for name in ADDITIONS if name in own}
    if named.get("fine_channels"):
        kept = {name: value for name, value in kept.items() if name not in REPLACED_BY_FINE_STAGES}
    elif named.get("stem", "patches") != "patches" or named.get("full_resolution_channels"):
        kept.pop("fine_channels", None)
    network = {**kept, **named}
    if network.get("strides"):
        return network
    sizes = sizes_in(network)
    if len(source.patch_size) == 3:
        return {**network, **with_strides_of(sizes, _strides_in_3d(own, source))}
    deeper = [[2, 2]] * (1 + len(sizes.dims) - len(own.strides))
    return {**network, **with_strides_of(sizes, [*own.strides, *deeper])}


def _own_sizes(source: ConfigurationManager) -> VMUNetSizes:
    """Of a source for a VM-UNet; the published ones of others, and of one that cannot be built for its patches."""
    if source.network_arch_class_name in NETWORKS:
        with suppress(UserValueError):
            own = planned_sizes(source)
            if own.axes == len(source.patch_size):
                return own
    return VMUNetSizes()


def _strides_in_3d(own: VMUNetSizes, source: ConfigurationManager) -> Sequence[Sequence[int]]:
    if own.axes == 3:
        return own.strides
    if source.network_arch_class_name in NETWORKS:
        raise UserError(
            "the plans to copy are for a VM-UNet that cannot be built for their volumes, so that they do not say where "
            "the resolution is lowered: copy others, such as nnUNetPlans"
        )
    return planned_strides(source)


def _check_can_be_built(configuration: ConfigurationManager) -> None:
    check_output_varies(configuration)
    with torch.device("meta"):
        build_vm_unet(configuration, 1, 2, deep_supervision=False, auxiliary_heads=False)
