"""Ours, to find out what the scan does: a VM-UNet whose blocks have y = x in its place.

As nnU-Net Revisited (arXiv 2404.09556) asks of networks with Mamba. The gate, the depthwise convolution and everything
else remain (`architecture.blocks.gated_convolution`), and so do plans, recipe and length; the parameters that only the
scan uses do not exist.
"""

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = [
    "nnUNetTrainerDSVM_50epochs_noScan",
    "nnUNetTrainerDSVM_150epochs_noScan",
    "nnUNetTrainerDSVM_noScan",
    "nnUNetTrainerVMUNet_50epochs_noScan",
    "nnUNetTrainerVMUNet_150epochs_noScan",
    "nnUNetTrainerVMUNet_noScan",
]


class nnUNetTrainerDSVM_noScan(nnUNetTrainerDSVM):
    """DSVM-UNet without the scan."""

    scan = False


class nnUNetTrainerDSVM_50epochs_noScan(nnUNetTrainerDSVM_noScan):
    """DSVM-UNet without the scan, trained for 50 epochs."""

    default_num_epochs = 50


class nnUNetTrainerDSVM_150epochs_noScan(nnUNetTrainerDSVM_noScan):
    """DSVM-UNet without the scan, trained for 150 epochs."""

    default_num_epochs = 150


class nnUNetTrainerVMUNet_noScan(nnUNetTrainerVMUNet):
    """VM-UNet without the scan."""

    scan = False


class nnUNetTrainerVMUNet_50epochs_noScan(nnUNetTrainerVMUNet_noScan):
    """VM-UNet without the scan, trained for 50 epochs."""

    default_num_epochs = 50


class nnUNetTrainerVMUNet_150epochs_noScan(nnUNetTrainerVMUNet_noScan):
    """VM-UNet without the scan, trained for 150 epochs."""

    default_num_epochs = 150
