"""Between nnU-Net's plans and our networks: which class and sizes plans ask for, and how they say it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.architecture.blocks.resampling import PATCH_SIZE
from nnunetv2_dsvm.architecture.vm_unet import PRESETS, VMUNet
from nnunetv2_dsvm.architecture.vm_unet_sizes import ADDITIONS, FINE_CHANNELS, VMUNetSizes, strides_of
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.planning.architecture_entry import NETWORK_CLASS_NAME, architecture_entry
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan

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


def trainer_for(fine_channels: int) -> str:
    """Our trainer whose network has so many channels in its fine stages, or takes as many as plans say."""
    return "nnUNetTrainerDSVM_fine" if fine_channels == FINE_CHANNELS else "nnUNetTrainerDSVM"


def check_network(configuration_manager: ConfigurationManager) -> None:
    """Raises UserValueError unless the configuration's patches are images or volumes, and its network one of them."""
    patch_size = [int(size) for size in configuration_manager.patch_size]
    if len(patch_size) not in (2, 3) or min(patch_size) < 1:
        raise UserValueError(
            f"the configuration has the patch size {patch_size}: VM-UNet and DSVM-UNet train on images (2 numbers) or "
            "volumes (3 numbers)"
        )
    axes = planned_sizes(configuration_manager).axes
    if axes != len(patch_size):
        needed = (
            "[[1, 1, 1], [4, 4, 4], [2, 2, 2], …]" if len(patch_size) == 3 else "[[1, 1], [4, 4], [2, 2], …], or none"
        )
        raise UserValueError(
            f"the plans ask for a VM-UNet of {axes}D images, but the configuration's patch size {patch_size} is "
            f'{len(patch_size)}D: give its arch_kwargs "strides" such as {needed}; nnUNetv2_dsvm copy-plans -c '
            "CONFIGURATION --preset NAME writes them by the plans"
        )


def planned_network(configuration_manager: ConfigurationManager) -> tuple[type[VMUNet], Mapping[str, Any]]:
    """The class of the network that our trainers build for a configuration, and its arguments by the plans.

    Plans made for another network, nnU-Net's or anybody's, get the published recipe, the preset "base"; the training's
    log says so (`in_words`). To refuse them would leave trained models without their network at inference. In 3D it
    lowers the resolution where the plans' own network does.

    Raises:
        UserValueError: 3D plans for another network do not say where that lowers the resolution.
    """
    name = configuration_manager.network_arch_class_name
    if name in NETWORKS:
        return NETWORKS[name], configuration_manager.network_arch_init_kwargs
    published = PRESETS[DEFAULT_PRESET]
    if len(configuration_manager.patch_size) == 3:
        return VMUNet, with_strides_of(published, planned_strides(configuration_manager))
    return VMUNet, published


def with_strides_of(sizes: VMUNetSizes, strides: Sequence[Sequence[int]]) -> VMUNetSizes:
    """The sizes with these strides, for as many stages as both have."""
    return sizes.with_strides(strides[: 1 + len(sizes.dims)])


def planned_strides(configuration_manager: ConfigurationManager) -> Sequence[Sequence[int]]:
    """The argument `strides` for a VM-UNet of a configuration: the plans', if they are for one, else by the plans'.

    Raises:
        UserValueError: 3D plans for another network do not say where that lowers the resolution.
    """
    arguments = configuration_manager.network_arch_init_kwargs
    if configuration_manager.network_arch_class_name in NETWORKS:
        return planned_sizes(configuration_manager).strides
    axes, strides = len(configuration_manager.patch_size), arguments.get("strides")
    if axes == 2:
        return PRESETS[DEFAULT_PRESET].strides
    try:
        plan = [[int(n) for n in step] for step in strides]  # of None: a TypeError
        if any(len(step) != axes or min(step) < 1 for step in plan):
            raise TypeError
        return strides_of_plan(plan)
    except (TypeError, ValueError) as error:
        raise UserValueError(
            f"in 3D a VM-UNet takes its strides from the plans, whose {configuration_manager.network_arch_class_name} "
            f"has arch_kwargs.strides {strides}: it needs three numbers for each resolution and a step that is larger "
            "than 1, as nnU-Net's planners write them. Plan with nnUNetv2_dsvm plan, or give the configuration a "
            f'VM-UNet with "strides" (nnUNetv2_dsvm copy-plans shows how)'
        ) from error


def planned_sizes(configuration_manager: ConfigurationManager) -> VMUNetSizes:
    """The sizes of the network that `build_vm_unet` makes.

    Raises:
        UserValueError: the plans' sizes do not fit together, or the plans lack strides.
    """
    try:
        return sizes_in(planned_network(configuration_manager)[1])
    except (TypeError, ValueError) as error:
        raise UserValueError(f"The plans' arch_kwargs give no VM-UNet: {error}") from error


def sizes_in(arguments: Mapping[str, Any]) -> VMUNetSizes:
    """The sizes among arguments of `VMUNet`.

    Raises:
        ValueError: they do not fit together.
    """
    names = (field.name for field in fields(VMUNetSizes))
    return VMUNetSizes(**{name: arguments[name] for name in names if arguments.get(name) is not None})


def check_output_varies(configuration_manager: ConfigurationManager) -> None:
    """Raises UserValueError where the plans ask for a VM-UNet so narrow that its output is the same for all images."""
    check_varies(planned_network(configuration_manager)[1])


def check_varies(arguments: Mapping[str, Any]) -> None:
    """The same of arguments of `VMUNet`."""
    dims = list(arguments.get("dims", ()))
    if dims and dims[0] < 2 * PATCH_SIZE and not arguments.get("fine_channels"):
        raise UserValueError(
            f"dims {dims} in the plans: the last expanding would leave {dims[0] // PATCH_SIZE} channel, of which its "
            f"norm makes a constant, and nothing could be learnt; begin with {2 * PATCH_SIZE} or more"
        )
    for name in ("full_resolution_channels", "fine_channels"):
        if arguments.get(name) == 1 and arguments[name] is not True:
            raise UserValueError(
                f"{name} 1: of one channel its norm makes a constant, and nothing could be learnt; give 2 or more, or 0"
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
        UserValueError: the configuration's network is not one for its patches, or its sizes do not fit together.
    """
    check_network(configuration_manager)
    network_class, arguments = planned_network(configuration_manager)
    heads = {"deep_supervision": deep_supervision, "auxiliary_heads": auxiliary_heads}
    try:
        return network_class(input_channels=input_channels, num_classes=num_classes, **{**arguments, **heads})
    except (TypeError, ValueError) as error:
        raise UserValueError(f"The plans' arch_kwargs give no VM-UNet: {error}") from error


def in_words(configuration_manager: ConfigurationManager, network: VMUNet) -> str:
    """Which network is trained and why this size; the plans, which nnU-Net logs, may describe another one."""
    sizes = network.sizes
    planned = configuration_manager.network_arch_class_name
    in_3d = sizes.axes == 3
    strided = in_3d or "strides" in sizes
    origin = "as the plans ask"
    if planned not in NETWORKS:
        whose = " with the plans' strides" if in_3d else ""
        origin = f"the published size{whose}, and not the {planned.rsplit('.', 1)[-1]} that the plans describe"
    return (
        f"{type(network).__name__} with dims {list(sizes.dims)}, "
        f"encoder_depths {list(sizes.encoder_depths)}, "
        f"decoder_depths {list(sizes.decoder_depths)} "
        + (f"and strides {[list(step) for step in sizes.strides]} " if strided else "")
        + "".join(f"and {name} {sizes[name]} " for name in ADDITIONS if name in sizes)
        + f"and {sum(p.numel() for p in network.parameters()):,} parameters: {origin}"
    )
