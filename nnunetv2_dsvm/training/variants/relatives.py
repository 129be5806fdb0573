"""Other networks of the family, each by its published recipe inside nnU-Net's frame, without and with distillation.

What is built and how it is trained is their entry in `architecture.relatives.registry`; documentation/networks.md says
what differs from the official code.
"""

from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.relative_layers import layers_of

__all__ = [
    "nnUNetTrainerDSVM_VMUNetV2",
    "nnUNetTrainerVMUNetV2",
]

_VMUNetV2: Any = layers_of("VMUNetV2")


class nnUNetTrainerVMUNetV2(_VMUNetV2, nnUNetTrainer):
    """VM-UNet V2 (arXiv 2403.09157)."""


class nnUNetTrainerDSVM_VMUNetV2(DistilledTraining, nnUNetTrainerVMUNetV2):
    """VM-UNet V2 with dual self-distillation."""
