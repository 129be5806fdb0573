"""Between nnU-Net's plans and our networks: which class and sizes plans ask for, and how they say it."""

from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.architecture.blocks.resampling import PATCH_SIZE
from nnunetv2_dsvm.architecture.vm_unet import PRESETS, VMUNet
from nnunetv2_dsvm.architecture.vm_unet_sizes import strides_of
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.planning.architecture_entry import NETWORK_CLASS_NAME, architecture_entry

# Our networks by the name that plans give them.
NETWORKS: dict[str, type[VMUNet]] = {NETWORK_CLASS_NAME: VMUNet}
DEFAULT_PRESET = "base"


def vm_unet_architecture(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `architecture` of a configuration, for our trainers and for nnU-Net's own.

    Args:
        sizes: arguments of `VMUNet` besides channels and classes, with `dims`.
    """
    # For nnU-Net's own trainers: heads with and without deep supervision, and their scales.
    strides = [list(step) for step in sizes.get("strides") or strides_of(len(sizes["dims"]))]
    return architecture_entry({**sizes, "auxiliary_heads": True, "strides": strides})


def check_2d(configuration_manager: ConfigurationManager) -> None:
    """Raises UserValueError unless the configuration trains on 2D patches: VM-UNet scans images."""
    patch_size = list(configuration_manager.patch_size)
    if len(patch_size) != 2:
        raise UserValueError(
            f"VM-UNet and DSVM-UNet support 2D configurations only, but this one has the {len(patch_size)}D patch size "
            f"{patch_size}: train the configuration '2d' (nnUNetv2_train DATASET 2d FOLD -tr ...), which nnU-Net plans "
            "for 3D images too"
        )


def planned_network(configuration_manager: ConfigurationManager) -> tuple[type[VMUNet], Mapping[str, Any]]:
    """The class of the network that our trainers build for a configuration, and its arguments by the plans.

    Plans made for another network, nnU-Net's or anybody's, get the published recipe, the preset "base"; the training's
    log says so (`in_words`). To refuse them would leave trained models without their network at inference.
    """
    name = configuration_manager.network_arch_class_name
    if name in NETWORKS:
        return NETWORKS[name], configuration_manager.network_arch_init_kwargs
    return VMUNet, PRESETS[DEFAULT_PRESET]


def check_output_varies(configuration_manager: ConfigurationManager) -> None:
    """Raises UserValueError where the plans ask for a VM-UNet so narrow that its output is the same for all images."""
    dims = list(planned_network(configuration_manager)[1].get("dims", ()))
    if dims and dims[0] < 2 * PATCH_SIZE:
        raise UserValueError(
            f"dims {dims} in the plans: the last expanding would leave {dims[0] // PATCH_SIZE} channel, of which its "
            f"norm makes a constant, and nothing could be learnt; begin with {2 * PATCH_SIZE} or more"
        )


def build_vm_unet(
    configuration_manager: ConfigurationManager,
    input_channels: int,
    num_classes: int,
    *,
    deep_supervision: bool,
    auxiliary_heads: bool,
) -> VMUNet:
    """The VM-UNet of an nnU-Net configuration; loads no file.

    Sizes come from the plans when their network class is ours (its `arch_kwargs` are the class's arguments), else from
    `planned_network`.

    Raises:
        UserValueError: the configuration is not 2D, or its sizes do not fit together.
    """
    check_2d(configuration_manager)
    network_class, arguments = planned_network(configuration_manager)
    heads = {"deep_supervision": deep_supervision, "auxiliary_heads": auxiliary_heads}
    try:
        return network_class(input_channels=input_channels, num_classes=num_classes, **{**arguments, **heads})
    except (TypeError, ValueError) as error:
        raise UserValueError(f"The plans' arch_kwargs give no VM-UNet: {error}") from error


def planned_stages(configuration_manager: ConfigurationManager) -> int:
    """The number of stages of the network that `build_vm_unet` makes."""
    return len(planned_network(configuration_manager)[1].get("dims", PRESETS[DEFAULT_PRESET].dims))


def in_words(configuration_manager: ConfigurationManager, network: VMUNet) -> str:
    """Which network is trained and why this size; the plans, which nnU-Net logs, may describe another one."""
    sizes = network.sizes
    planned = configuration_manager.network_arch_class_name
    origin = "as the plans ask"
    if planned not in NETWORKS:
        origin = f"the published size, and not the {planned.rsplit('.', 1)[-1]} that the plans describe"
    return (
        f"{type(network).__name__} with dims {list(sizes.dims)}, "
        f"encoder_depths {list(sizes.encoder_depths)}, "
        f"decoder_depths {list(sizes.decoder_depths)} "
        f"and {sum(p.numel() for p in network.parameters()):,} parameters: {origin}"
    )
