"""Other networks of the family, each by its published recipe inside nnU-Net's frame, without and with distillation.

What is built and how it is trained is their entry in `architecture.relatives.registry`; documentation/networks.md says
what differs from the official code.
"""

from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.relative_layers import layers_of

__all__ = [
    "nnUNetTrainerASPVMUNet",
    "nnUNetTrainerDSVM_ASPVMUNet",
    "nnUNetTrainerDSVM_LightMUNet",
    "nnUNetTrainerDSVM_MSVMUNet",
    "nnUNetTrainerDSVM_SwinUMamba",
    "nnUNetTrainerDSVM_SwinUMambaD",
    "nnUNetTrainerDSVM_UMambaBot",
    "nnUNetTrainerDSVM_UMambaEnc",
    "nnUNetTrainerDSVM_VMUNetV2",
    "nnUNetTrainerLightMUNet",
    "nnUNetTrainerMSVMUNet",
    "nnUNetTrainerSwinUMamba",
    "nnUNetTrainerSwinUMambaD",
    "nnUNetTrainerUMambaBot",
    "nnUNetTrainerUMambaEnc",
    "nnUNetTrainerVMUNetV2",
]

_VMUNetV2: Any = layers_of("VMUNetV2")
_MSVMUNet: Any = layers_of("MSVMUNet")
_SwinUMamba: Any = layers_of("SwinUMamba")
_SwinUMambaD: Any = layers_of("SwinUMambaD")
_UMambaBot: Any = layers_of("UMambaBot")
_UMambaEnc: Any = layers_of("UMambaEnc")
_LightMUNet: Any = layers_of("LightMUNet")
_ASPVMUNet: Any = layers_of("ASPVMUNet")


class nnUNetTrainerVMUNetV2(_VMUNetV2, nnUNetTrainer):
    """VM-UNet V2 (arXiv 2403.09157)."""


class nnUNetTrainerDSVM_VMUNetV2(DistilledTraining, nnUNetTrainerVMUNetV2):
    """VM-UNet V2 with dual self-distillation."""


class nnUNetTrainerMSVMUNet(_MSVMUNet, nnUNetTrainer):
    """MSVM-UNet (arXiv 2408.13735)."""


class nnUNetTrainerDSVM_MSVMUNet(DistilledTraining, nnUNetTrainerMSVMUNet):
    """MSVM-UNet with dual self-distillation."""


class nnUNetTrainerSwinUMamba(_SwinUMamba, nnUNetTrainer):
    """Swin-UMamba (arXiv 2402.03302)."""


class nnUNetTrainerDSVM_SwinUMamba(DistilledTraining, nnUNetTrainerSwinUMamba):
    """Swin-UMamba with dual self-distillation."""


class nnUNetTrainerSwinUMambaD(_SwinUMambaD, nnUNetTrainer):
    """Swin-UMamba† (arXiv 2402.03302)."""


class nnUNetTrainerDSVM_SwinUMambaD(DistilledTraining, nnUNetTrainerSwinUMambaD):
    """Swin-UMamba† with dual self-distillation."""


class nnUNetTrainerUMambaBot(_UMambaBot, nnUNetTrainer):
    """U-Mamba Bot (arXiv 2401.04722)."""


class nnUNetTrainerDSVM_UMambaBot(DistilledTraining, nnUNetTrainerUMambaBot):
    """U-Mamba Bot with dual self-distillation."""


class nnUNetTrainerUMambaEnc(_UMambaEnc, nnUNetTrainer):
    """U-Mamba Enc (arXiv 2401.04722)."""


class nnUNetTrainerDSVM_UMambaEnc(DistilledTraining, nnUNetTrainerUMambaEnc):
    """U-Mamba Enc with dual self-distillation."""


class nnUNetTrainerLightMUNet(_LightMUNet, nnUNetTrainer):
    """LightM-UNet (arXiv 2403.05246)."""


class nnUNetTrainerDSVM_LightMUNet(DistilledTraining, nnUNetTrainerLightMUNet):
    """LightM-UNet with dual self-distillation."""


class nnUNetTrainerASPVMUNet(_ASPVMUNet, nnUNetTrainer):
    """ASP-VMUNet (arXiv 2503.19427)."""


class nnUNetTrainerDSVM_ASPVMUNet(DistilledTraining, nnUNetTrainerASPVMUNet):
    """ASP-VMUNet with dual self-distillation."""
