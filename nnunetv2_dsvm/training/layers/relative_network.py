"""The layer of another network of the family: the relative of this name, in training and at inference."""

from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.planning.network_settings import settings_in_words, stated_settings
from nnunetv2_dsvm.planning.relative_of_plans import build_relative, check_batch, check_dimensions, in_words
from nnunetv2_dsvm.training.layers.own_network import OwnNetwork


class RelativeNetwork(OwnNetwork):
    """Builds the network that `relative` names in `architecture.relatives.registry`."""

    relative: str

    @classmethod
    def network_class(cls) -> type[SegmentationNetwork]:
        return RELATIVES[cls.relative].network

    @classmethod
    def network_title(cls) -> str:
        return RELATIVES[cls.relative].title

    @classmethod
    def build(
        cls,
        planned: ConfigurationManager,
        input_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool,
        auxiliary_heads: bool,
    ) -> SegmentationNetwork:
        heads = {"deep_supervision": deep_supervision, "auxiliary_heads": auxiliary_heads}
        return build_relative(cls.relative, planned, input_channels, num_classes, **heads)

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        if stated := stated_settings(type(self)):
            raise UserValueError(
                f"{type(self).__name__} states {settings_in_words(stated)}, which is said of a VM-UNet, and trains "
                f"{self.network_title()}: leave it out"
            )
        check_dimensions(self.relative, planned)
        check_batch(self.relative, planned)

    @classmethod
    def in_short(cls) -> dict[str, str]:
        return {**super().in_short(), "dimensions": ", ".join(f"{n}D" for n in RELATIVES[cls.relative].dimensions)}

    def own_checkpoint_entry(self) -> dict[str, Any]:
        # What reads a trained model need not know the trainers, which may be a user's.
        return {**super().own_checkpoint_entry(), "network": self.relative}

    def on_train_start(self):
        super().on_train_start()
        words = in_words(self.relative, self.configuration_manager, unwrap_model(self.network))
        self.print_to_log_file(f"network: {words}")
