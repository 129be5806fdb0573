"""The network that nnU-Net's plans ask for."""

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.architecture.blocks.resampling import PATCH_SIZE
from nnunetv2_dsvm.architecture.vm_unet import PRESETS, VMUNet
from nnunetv2_dsvm.errors import UserValueError

NETWORK_CLASS_NAME = f"{VMUNet.__module__}.{VMUNet.__qualname__}"
DEFAULT_PRESET = "base"


def refuse_unless_2d(configuration_manager: ConfigurationManager) -> None:
    """Raises UserValueError unless the configuration trains on 2D patches: VM-UNet scans images."""
    patch_size = list(configuration_manager.patch_size)
    if len(patch_size) != 2:
        raise UserValueError(
            f"VM-UNet and DSVM-UNet support 2D configurations only, but this one has the {len(patch_size)}D patch size "
            f"{patch_size}: train the configuration '2d' (nnUNetv2_train DATASET 2d FOLD -tr ...), which nnU-Net plans "
            "for 3D images too"
        )


def check_output_varies(configuration_manager: ConfigurationManager) -> None:
    """Raises UserValueError where the plans ask for a VM-UNet so narrow that its output is the same for all images."""
    if configuration_manager.network_arch_class_name != NETWORK_CLASS_NAME:
        return
    dims = list(configuration_manager.network_arch_init_kwargs.get("dims", ()))
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

    Sizes come from the plans when their network class is our VMUNet (its `arch_kwargs` are VMUNet's arguments). Plans
    made for another network, as nnU-Net's planners write them, get the preset "base", the published recipe.

    Raises:
        UserValueError: the configuration is not 2D, or its sizes do not fit together.
    """
    refuse_unless_2d(configuration_manager)
    heads = {"deep_supervision": deep_supervision, "auxiliary_heads": auxiliary_heads}
    if configuration_manager.network_arch_class_name == NETWORK_CLASS_NAME:
        sizes = {**configuration_manager.network_arch_init_kwargs, **heads}
        try:
            return VMUNet(input_channels=input_channels, num_classes=num_classes, **sizes)
        except (TypeError, ValueError) as error:
            raise UserValueError(f"The plans' arch_kwargs give no VM-UNet: {error}") from error
    return VMUNet.from_preset(DEFAULT_PRESET, input_channels, num_classes, **heads)


def planned_stages(configuration_manager: ConfigurationManager) -> int:
    """The number of stages of the network that `build_vm_unet` makes."""
    default = PRESETS[DEFAULT_PRESET]["dims"]
    is_planned = configuration_manager.network_arch_class_name == NETWORK_CLASS_NAME
    return len(configuration_manager.network_arch_init_kwargs.get("dims", default) if is_planned else default)


def in_words(configuration_manager: ConfigurationManager, network: VMUNet) -> str:
    """Which network is trained and why this size; the plans, which nnU-Net logs, may describe another one."""
    encoder, decoder = network.encoder, network.decoder
    planned = configuration_manager.network_arch_class_name
    origin = "as the plans ask"
    if planned != NETWORK_CLASS_NAME:
        origin = f"the published size, and not the {planned.rsplit('.', 1)[-1]} that the plans describe"
    return (
        f"{type(network).__name__} with dims {encoder.output_channels}, "
        f"encoder_depths {[len(stage.blocks) for stage in encoder.stages]}, "
        f"decoder_depths {[len(stage.blocks) for stage in decoder.stages]} "
        f"and {sum(p.numel() for p in network.parameters()):,} parameters: {origin}"
    )
