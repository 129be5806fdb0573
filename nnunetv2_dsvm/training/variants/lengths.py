"""Both trainers with another length than their 300 epochs; the schedule stretches with it."""

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = [
    "nnUNetTrainerDSVM_1epochs",
    "nnUNetTrainerDSVM_5epochs",
    "nnUNetTrainerDSVM_10epochs",
    "nnUNetTrainerDSVM_20epochs",
    "nnUNetTrainerDSVM_50epochs",
    "nnUNetTrainerDSVM_100epochs",
    "nnUNetTrainerDSVM_250epochs",
    "nnUNetTrainerDSVM_500epochs",
    "nnUNetTrainerDSVM_1000epochs",
    "nnUNetTrainerVMUNet_1epochs",
    "nnUNetTrainerVMUNet_5epochs",
    "nnUNetTrainerVMUNet_10epochs",
    "nnUNetTrainerVMUNet_20epochs",
    "nnUNetTrainerVMUNet_50epochs",
    "nnUNetTrainerVMUNet_100epochs",
    "nnUNetTrainerVMUNet_250epochs",
    "nnUNetTrainerVMUNet_500epochs",
    "nnUNetTrainerVMUNet_1000epochs",
]


class nnUNetTrainerDSVM_1epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 1 epoch."""

    default_num_epochs = 1


class nnUNetTrainerDSVM_5epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 5 epochs."""

    default_num_epochs = 5


class nnUNetTrainerDSVM_10epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 10 epochs."""

    default_num_epochs = 10


class nnUNetTrainerDSVM_20epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 20 epochs."""

    default_num_epochs = 20


class nnUNetTrainerDSVM_50epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 50 epochs."""

    default_num_epochs = 50


class nnUNetTrainerDSVM_100epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 100 epochs."""

    default_num_epochs = 100


class nnUNetTrainerDSVM_250epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 250 epochs."""

    default_num_epochs = 250


class nnUNetTrainerDSVM_500epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 500 epochs."""

    default_num_epochs = 500


class nnUNetTrainerDSVM_1000epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 1000 epochs."""

    default_num_epochs = 1000


class nnUNetTrainerVMUNet_1epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 1 epoch."""

    default_num_epochs = 1


class nnUNetTrainerVMUNet_5epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 5 epochs."""

    default_num_epochs = 5


class nnUNetTrainerVMUNet_10epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 10 epochs."""

    default_num_epochs = 10


class nnUNetTrainerVMUNet_20epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 20 epochs."""

    default_num_epochs = 20


class nnUNetTrainerVMUNet_50epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 50 epochs."""

    default_num_epochs = 50


class nnUNetTrainerVMUNet_100epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 100 epochs."""

    default_num_epochs = 100


class nnUNetTrainerVMUNet_250epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 250 epochs."""

    default_num_epochs = 250


class nnUNetTrainerVMUNet_500epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 500 epochs."""

    default_num_epochs = 500


class nnUNetTrainerVMUNet_1000epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 1000 epochs."""

    default_num_epochs = 1000
