"""What a trainer's class may state of its VM-UNet in the place of the plans: plans stay the same for all to compare."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.architecture.vm_unet_sizes import ADDITIONS, VMUNetSizes
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.planning.architecture_entry import architecture_entry
from nnunetv2_dsvm.planning.network_of_plans import planned_network, sizes_in

STRIDE = "patch_embedding_stride"
NETWORK_SETTINGS = (STRIDE, *ADDITIONS, "drop_path_rate")


def stated_settings(trainer: type) -> dict[str, Any]:
    """What a trainer's class states of the network, by name."""
    return {name: value for name in NETWORK_SETTINGS if (value := getattr(trainer, name, None)) is not None}


def with_settings(configuration: ConfigurationManager, settings: Mapping[str, Any]) -> ConfigurationManager:
    """The configuration with the VM-UNet that is built for it, but for what is stated; itself where nothing is.

    Args:
        configuration: of any plans.
        settings: some of `NETWORK_SETTINGS`: arguments of `VMUNet`, and `patch_embedding_stride`, that of
            `VMUNetSizes.with_patch_embedding_stride`.

    Raises:
        UserValueError: they give no VM-UNet, or the plans do not.
    """
    if not settings:
        return configuration
    arguments = planned_network(configuration)[1]
    try:
        sizes = sizes_in(arguments)
        if STRIDE in settings:  # first: what else is stated may not go with the plans' own
            sizes = sizes.with_patch_embedding_stride(settings[STRIDE])
        sizes = replace(sizes, **{name: settings[name] for name in settings if name != STRIDE})
    except (TypeError, ValueError) as error:
        raise UserValueError(
            f"The plans' arch_kwargs and the trainer's {settings_in_words(settings)} give no VM-UNet: {error}"
        ) from error
    architecture = architecture_entry({**arguments, **asdict(sizes)})
    return ConfigurationManager({**configuration.configuration, "architecture": architecture})


def lost_settings(settings: Mapping[str, Any], built: VMUNetSizes) -> dict[str, Any]:
    """Those of the settings that a network was not built by."""
    of_network = {name: max(built.strides[1]) if name == STRIDE else getattr(built, name) for name in settings}
    return {name: value for name, value in settings.items() if of_network[name] != value}


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """`"stem convolutions, scan False"`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())
