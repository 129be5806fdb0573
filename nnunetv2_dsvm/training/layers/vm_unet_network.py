"""The layer of the network: the VM-UNet of the plans and of the class's settings, and what it refuses."""

from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.architecture.vm_unet_sizes import Stem
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.planning.network_of_plans import build_vm_unet, check_network, check_output_varies, in_words
from nnunetv2_dsvm.planning.network_settings import (
    NETWORK_SETTINGS,
    lost_settings,
    settings_in_words,
    stated_settings,
    with_settings,
)
from nnunetv2_dsvm.training.layers.own_network import OwnNetwork


class VMUNetNetwork(OwnNetwork):
    """Builds a VM-UNet of the size the plans give, else of the published one, in training and at inference.

    What a class states of the network in its body takes the place of the plans'. None: as the plans say, which is the
    published network, unless somebody has put an addition into their `arch_kwargs`.
    """

    patch_embedding_stride: int | None = None  # see `VMUNetSizes.with_patch_embedding_stride`
    stem: Stem | None = None  # these and those below: arguments of `VMUNet`
    full_resolution_channels: int | None = None
    fine_channels: int | None = None
    scan: bool | None = None
    drop_path_rate: float | None = None

    @classmethod
    def network_class(cls) -> type[VMUNet]:
        return VMUNet

    @classmethod
    def network_title(cls) -> str:
        return "a VM-UNet"

    @classmethod
    def build(
        cls,
        planned: ConfigurationManager,
        input_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool,
        auxiliary_heads: bool,
    ) -> VMUNet:
        heads = {"deep_supervision": deep_supervision, "auxiliary_heads": auxiliary_heads}
        return build_vm_unet(with_settings(planned, cls.network_settings()), input_channels, num_classes, **heads)

    @classmethod
    def network_settings(cls) -> dict[str, Any]:
        """What the class states of the network, by name."""
        return stated_settings(cls)

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        planned = with_settings(planned, self.network_settings())
        check_output_varies(planned)
        check_network(planned)

    @classmethod
    def in_short(cls) -> dict[str, str]:
        short, stated = super().in_short(), settings_in_words(cls.network_settings())
        return {**short, "network": ", ".join(filter(None, (short["network"], stated))), "dimensions": "2D, 3D"}

    def initialize(self):
        for name in NETWORK_SETTINGS:
            if name in vars(self):
                raise UserValueError(
                    f"{name} of this {type(self).__name__} was assigned to the trainer, but nnU-Net builds the network "
                    f"at inference from the class alone: set {name} = {vars(self)[name]!r} in the body of the class"
                )
        super().initialize()
        if lost := lost_settings(self.network_settings(), unwrap_model(self.network).sizes):
            raise UserValueError(
                f"{type(self).__name__} states {settings_in_words(lost)}, but its build_network_architecture gives a "
                "network without: call cls.build there, or leave one of the two out"
            )

    def own_checkpoint_entry(self) -> dict[str, Any]:
        # What reads a trained model need not know the trainers, which may be a user's.
        settings = self.network_settings()
        return {**super().own_checkpoint_entry(), **({"network_settings": settings} if settings else {})}

    def on_train_start(self):
        super().on_train_start()
        words = in_words(self.configuration_manager, unwrap_model(self.network))
        stated = settings_in_words(self.network_settings())
        self.print_to_log_file(f"network: {words}{f', but for the {stated} of the trainer' if stated else ''}")
