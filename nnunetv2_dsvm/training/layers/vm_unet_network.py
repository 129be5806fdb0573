"""The layer of the network: the VM-UNet of the plans, what it refuses, its deep supervision and CUDA graphs."""

import inspect
import os

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.planning.network_of_plans import (
    build_vm_unet,
    check_network,
    check_output_varies,
    in_words,
    planned_sizes,
)
from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks

_OF_THE_NETWORK = ("build_network_architecture", "_get_deep_supervision_scales")


class VMUNetNetwork(TrainerHooks):
    """Builds a VM-UNet of the size the plans give, else of the published one, in training and at inference."""

    default_deep_supervision: bool = False

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        check_output_varies(planned)
        check_network(planned)
        for hook in _OF_THE_NETWORK:
            used = next(c for c in type(self).__mro__ if hook in vars(c))
            nnunets = used if used.__module__.startswith("nnunetv2.") else None  # in front
            if other := nnunets or self.mixed_in_behind(VMUNetNetwork, hook):
                raise UserValueError(
                    f"{type(self).__name__} trains a VM-UNet and mixes in {other.__name__}, whose {hook} belongs to "
                    f"another network{'' if nnunets else ' and would be ignored'}: leave {other.__name__} out"
                )

    @classmethod
    def in_short(cls) -> dict[str, str]:
        network = "VM-UNet with deep supervision" if cls._trains_auxiliary_heads() else "VM-UNet"
        return {**super().in_short(), "network": network, "dimensions": "2D, 3D"}

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network; with the auxiliary heads of a class that trains them at inference too, to load their weights."""
        return build_vm_unet(
            configuration_manager,
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
            auxiliary_heads=enable_deep_supervision or cls._trains_auxiliary_heads(),
        )

    @classmethod
    def _trains_auxiliary_heads(cls) -> bool:
        return cls._class_settings()["enable_deep_supervision"].value

    def initialize(self):
        enabled, stated = self.enable_deep_supervision, self._trains_auxiliary_heads()
        builds = inspect.unwrap(type(self).build_network_architecture)
        if enabled != stated and getattr(builds, "__func__", None) is VMUNetNetwork.build_network_architecture.__func__:
            raise UserValueError(
                f"enable_deep_supervision of this {type(self).__name__} is {enabled}, but its class states {stated}, "
                "with which nnU-Net would build the network at inference: set default_deep_supervision = "
                f"{enabled} in the body of the class"
            )
        super().initialize()
        network = unwrap_model(self.network)
        if not isinstance(network, VMUNet):
            raise UserValueError(
                f"{type(self).__name__} trains a VM-UNet, but its build_network_architecture gives a "
                f"{type(network).__name__}: leave out the class that it comes from"
            )
        network.cuda_graphs.training = self._records_graphs()

    def _records_graphs(self) -> bool:
        # With auxiliary heads and deterministic algorithms, recording failed on an H200 and left the stream unusable.
        return not (self._do_i_compile() or (self.enable_deep_supervision and self.is_deterministic()))

    def _do_i_compile(self):
        # CUDA graphs take away what torch.compile would, without its minute of compiling: only on request.
        return os.environ.get("nnUNet_compile", "0").lower() in ("true", "1", "t") and super()._do_i_compile()

    def set_deep_supervision_enabled(self, enabled: bool):
        # nnU-Net turns it on after every validation, also for trainers that have it off and never trained those heads.
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """The size of each output, largest first, as a fraction of the patch along each axis, rounded up to voxels.

        In 2D 1, 1/4, 1/8, 1/16. nnU-Net reads its own network's scales from the plans; ours has no output at half the
        resolution, and may not have the plans' network.
        """
        if not self.enable_deep_supervision:
            return None
        if self.network is None:  # an __init__ may ask before it is built
            strides = planned_sizes(self.configuration_manager).output_strides
        else:
            network = unwrap_model(self.network)
            strides = network.output_strides[: len(network.decoder.seg_layers)]
        patch_size = self.configuration_manager.patch_size
        return [[-(-size // step) / size for size, step in zip(patch_size, s, strict=True)] for s in strides]

    def on_train_start(self):
        super().on_train_start()
        self.print_to_log_file(f"network: {in_words(self.configuration_manager, unwrap_model(self.network))}")
