"""The layer of the network: the VM-UNet of the plans, and what it refuses."""

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.planning.network_of_plans import build_vm_unet, check_network, check_output_varies, in_words
from nnunetv2_dsvm.training.layers.own_network import OwnNetwork


class VMUNetNetwork(OwnNetwork):
    """Builds a VM-UNet of the size the plans give, else of the published one, in training and at inference."""

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
        return build_vm_unet(planned, input_channels, num_classes, **heads)

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        check_output_varies(planned)
        check_network(planned)

    @classmethod
    def in_short(cls) -> dict[str, str]:
        return {**super().in_short(), "dimensions": "2D, 3D"}

    def on_train_start(self):
        super().on_train_start()
        self.print_to_log_file(f"network: {in_words(self.configuration_manager, unwrap_model(self.network))}")
