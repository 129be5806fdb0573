"""Ours, for structures finer than VM-UNet's patches: convolutional stages in the place of its patch embedding.

The study (`examples/accuracy_study`) chose both settings on one fold and tested them on the others.
"""

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = ["nnUNetTrainerDSVM_fine", "nnUNetTrainerVMUNet_fine"]


class nnUNetTrainerDSVM_fine(nnUNetTrainerDSVM):
    """DSVM-UNet with nnU-Net's convolutional stages at the finest resolutions, and without stochastic depth."""

    fine_channels = 32
    drop_path_rate = 0.0


class nnUNetTrainerVMUNet_fine(nnUNetTrainerVMUNet):
    """VM-UNet with nnU-Net's convolutional stages at the finest resolutions, and without stochastic depth."""

    fine_channels = 32
    drop_path_rate = 0.0
