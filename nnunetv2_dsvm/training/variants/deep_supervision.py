"""Ours: heads on the decoder's stages too, trained as nnU-Net trains its own, and unused at inference."""

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = ["nnUNetTrainerDSVM_deepSupervision", "nnUNetTrainerVMUNet_deepSupervision"]


class nnUNetTrainerDSVM_deepSupervision(nnUNetTrainerDSVM):
    """DSVM-UNet with nnU-Net's deep supervision."""

    default_deep_supervision = True


class nnUNetTrainerVMUNet_deepSupervision(nnUNetTrainerVMUNet):
    """VM-UNet with nnU-Net's deep supervision."""

    default_deep_supervision = True
