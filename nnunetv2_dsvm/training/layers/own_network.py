"""The layer of any network of this package: what is refused around it, its deep supervision, its CUDA graphs."""

import inspect
import os
from abc import abstractmethod
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, per_axis
from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.cuda_graphs.averaged_gradients import in_ddp
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks

_OF_THE_NETWORK = ("build_network_architecture", "_get_deep_supervision_scales")


class OwnNetwork(TrainerHooks):
    """Trains a `SegmentationNetwork`, which a subclass builds; deep supervision where the class states it."""

    default_deep_supervision: bool = False

    @classmethod
    @abstractmethod
    def network_class(cls) -> type[SegmentationNetwork]:
        """Of the network that is trained."""

    @classmethod
    @abstractmethod
    def network_title(cls) -> str:
        """Its name in sentences, with an article where it takes one."""

    @classmethod
    @abstractmethod
    def build(
        cls,
        planned: ConfigurationManager,
        input_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool,
        auxiliary_heads: bool,
    ) -> SegmentationNetwork:
        """The network of a configuration; loads no file.

        Raises:
            UserValueError: there is none.
        """

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        for hook in _OF_THE_NETWORK:
            used = next(c for c in type(self).__mro__ if hook in vars(c))
            nnunets = used if used.__module__.startswith("nnunetv2.") else None  # in front
            if other := nnunets or self.mixed_in_behind(OwnNetwork, hook):
                raise UserValueError(
                    f"{type(self).__name__} trains {self.network_title()} and mixes in {other.__name__}, whose {hook} "
                    f"belongs to another network{'' if nnunets else ' and would be ignored'}: leave {other.__name__} "
                    "out"
                )

    @classmethod
    def in_short(cls) -> dict[str, str]:
        suffix = " with deep supervision" if cls._trains_auxiliary_heads() else ""
        return {**super().in_short(), "network": cls.network_title().removeprefix("a ") + suffix}

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
        return cls.build(
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
        if enabled != stated and getattr(builds, "__func__", None) is OwnNetwork.build_network_architecture.__func__:
            raise UserValueError(
                f"enable_deep_supervision of this {type(self).__name__} is {enabled}, but its class states {stated}, "
                "with which nnU-Net would build the network at inference: set default_deep_supervision = "
                f"{enabled} in the body of the class"
            )
        super().initialize()
        network = unwrap_model(self.network)
        if not isinstance(network, self.network_class()):
            raise UserValueError(
                f"{type(self).__name__} trains {self.network_title()}, but its build_network_architecture gives a "
                f"{type(network).__name__}: leave out the class that it comes from"
            )
        network.cuda_graphs.training = self._records_graphs(network)
        if self.is_ddp and network.cuda_graphs.training:
            self.network = in_ddp(network)  # instead of nnU-Net's, which copies each gradient twice

    def _records_graphs(self, network: SegmentationNetwork) -> bool:
        # Batch norms that are synchronised wait for other processes.
        synchronised = self.is_ddp and any(isinstance(module, _BatchNorm) for module in network.modules())
        return not (self._do_i_compile() or synchronised)

    def _do_i_compile(self):
        # CUDA graphs take away what torch.compile would, without its minute of compiling: only on request.
        return os.environ.get("nnUNet_compile", "0").lower() in ("true", "1", "t") and super()._do_i_compile()

    def set_deep_supervision_enabled(self, enabled: bool):
        # nnU-Net turns it on after every validation, also for trainers that have it off and never trained those heads.
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """The size of each output, largest first, as a fraction of the patch, rounded up to pixels.

        nnU-Net reads its own network's scales from the plans; ours may leave a resolution out.
        """
        if not self.enable_deep_supervision:
            return None
        network: Any = unwrap_model(self.network)
        if network is None:  # an __init__ may ask before it is built
            with torch.device("meta"):
                network = self.build(self.configuration_manager, 1, 1, deep_supervision=True, auxiliary_heads=True)
        sizes = self.configuration_manager.patch_size
        strides = [per_axis(stride, len(sizes)) for stride in network.output_strides]
        strides = strides[: len(network.decoder.seg_layers)]
        return [[-(-size // step) / size for size, step in zip(sizes, steps, strict=True)] for steps in strides]
