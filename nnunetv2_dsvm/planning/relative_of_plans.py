"""From nnU-Net's plans to a relative of VM-UNet: its sizes, and the configurations that it cannot be built for."""

from collections.abc import Mapping
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch.nn.modules.batchnorm import _BatchNorm

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES, class_path
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, per_axis
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.files.text import by


def check_dimensions(name: str, configuration: ConfigurationManager) -> None:
    """Raises UserValueError unless the relative can be built for patches of so many axes."""
    relative, patch_size = RELATIVES[name], list(configuration.patch_size)
    if len(patch_size) not in relative.dimensions:
        able = " and ".join(f"{n}D" for n in relative.dimensions)
        raise UserValueError(
            f"{relative.title} supports {able} configurations only, but this one has the {len(patch_size)}D patch size "
            f"{patch_size}: train another one, such as '2d' (nnUNetv2_train DATASET 2d FOLD -tr ...), which nnU-Net "
            "plans for 3D images too"
        )


def check_batch(name: str, configuration: ConfigurationManager) -> None:
    """Raises UserValueError where a batch norm would see one value of each channel, of which it can make nothing.

    So it is with a batch of one patch that the deepest stage makes one pixel of.
    """
    if configuration.batch_size > 1:
        return
    with torch.device("meta"):
        network = build_relative(name, configuration, 1, 1, deep_supervision=False, auxiliary_heads=False)
    patch = configuration.patch_size
    strides = per_axis(network.stride, len(patch))
    one_pixel = all(size <= stride for size, stride in zip(patch, strides, strict=True))
    if one_pixel and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise UserValueError(
            f"the configuration has batches of 1 patch of {by(patch)}, and {RELATIVES[name].title} has batch norms, "
            f"which need more than one value of each channel; its deepest stage makes one pixel of {by(strides)}. In a "
            "copy of the plans (nnUNetv2_dsvm copy-plans) set --batch-size to 2 or more, or a larger --patch-size"
        )


def planned_arguments(name: str, configuration: ConfigurationManager) -> Mapping[str, Any]:
    """The arguments of a relative's class besides channels, classes and heads.

    Those of the plans where they name the class; else what the relative makes of the U-Net in the plans, or none: the
    published size.
    """
    relative = RELATIVES[name]
    if is_planned(name, configuration):
        return configuration.network_arch_init_kwargs
    if relative.of_plans is None:
        return {}
    return relative.of_plans(configuration.network_arch_init_kwargs, configuration.patch_size)


def is_planned(name: str, configuration: ConfigurationManager) -> bool:
    """Whether the plans describe this network, as opposed to nnU-Net's or another one."""
    return configuration.network_arch_class_name == class_path(RELATIVES[name].network)


def build_relative(
    name: str,
    configuration: ConfigurationManager,
    input_channels: int,
    num_classes: int,
    *,
    deep_supervision: bool,
    auxiliary_heads: bool,
) -> SegmentationNetwork:
    """The network of this name for an nnU-Net configuration; loads no file.

    Raises:
        UserValueError: the configuration has other dimensions, or its sizes do not fit together.
    """
    check_dimensions(name, configuration)
    heads = {"deep_supervision": deep_supervision, "auxiliary_heads": auxiliary_heads}
    try:
        arguments = {**planned_arguments(name, configuration), **heads}
        return RELATIVES[name].network(input_channels, num_classes, **arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise UserValueError(f"The plans give no {RELATIVES[name].title}: {error}") from error


def in_words(name: str, configuration: ConfigurationManager, network: SegmentationNetwork) -> str:
    """Which network is trained and why this size; the plans, which nnU-Net logs, may describe another one."""
    relative = RELATIVES[name]
    if is_planned(name, configuration):
        origin = "as the plans ask"
    elif relative.of_plans is not None:
        origin = "of the stages of the network in the plans"
    else:
        other = configuration.network_arch_class_name.rsplit(".", 1)[-1]
        origin = f"the published size, and not the {other} that the plans describe"
    parameters = sum(p.numel() for p in network.parameters())
    return f"{relative.title} (arXiv {relative.paper}) with {parameters:,} parameters: {origin}"
