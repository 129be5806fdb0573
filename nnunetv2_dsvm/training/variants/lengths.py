"""The trainers with another length than their own 300 or 1000 epochs; the schedule stretches with it."""

from nnunetv2_dsvm.training.distilled_trainer import nnUNetTrainerDistilled
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = [
    "nnUNetTrainerDSVM_1epochs",
    "nnUNetTrainerDSVM_5epochs",
    "nnUNetTrainerDSVM_10epochs",
    "nnUNetTrainerDSVM_20epochs",
    "nnUNetTrainerDSVM_50epochs",
    "nnUNetTrainerDSVM_100epochs",
    "nnUNetTrainerDSVM_150epochs",
    "nnUNetTrainerDSVM_250epochs",
    "nnUNetTrainerDSVM_500epochs",
    "nnUNetTrainerDSVM_1000epochs",
    "nnUNetTrainerDistilled_1epochs",
    "nnUNetTrainerDistilled_5epochs",
    "nnUNetTrainerDistilled_10epochs",
    "nnUNetTrainerDistilled_20epochs",
    "nnUNetTrainerDistilled_50epochs",
    "nnUNetTrainerDistilled_100epochs",
    "nnUNetTrainerDistilled_150epochs",
    "nnUNetTrainerDistilled_250epochs",
    "nnUNetTrainerDistilled_500epochs",
    "nnUNetTrainerDistilled_1000epochs",
    "nnUNetTrainerVMUNet_1epochs",
    "nnUNetTrainerVMUNet_5epochs",
    "nnUNetTrainerVMUNet_10epochs",
    "nnUNetTrainerVMUNet_20epochs",
    "nnUNetTrainerVMUNet_50epochs",
    "nnUNetTrainerVMUNet_100epochs",
    "nnUNetTrainerVMUNet_150epochs",
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


class nnUNetTrainerDSVM_150epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 150 epochs."""

    default_num_epochs = 150


class nnUNetTrainerDSVM_250epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 250 epochs."""

    default_num_epochs = 250


class nnUNetTrainerDSVM_500epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 500 epochs."""

    default_num_epochs = 500


class nnUNetTrainerDSVM_1000epochs(nnUNetTrainerDSVM):
    """DSVM-UNet, trained for 1000 epochs."""

    default_num_epochs = 1000


class nnUNetTrainerDistilled_1epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 1 epoch."""

    default_num_epochs = 1


class nnUNetTrainerDistilled_5epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 5 epochs."""

    default_num_epochs = 5


class nnUNetTrainerDistilled_10epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 10 epochs."""

    default_num_epochs = 10


class nnUNetTrainerDistilled_20epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 20 epochs."""

    default_num_epochs = 20


class nnUNetTrainerDistilled_50epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 50 epochs."""

    default_num_epochs = 50


class nnUNetTrainerDistilled_100epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 100 epochs."""

    default_num_epochs = 100


class nnUNetTrainerDistilled_150epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 150 epochs."""

    default_num_epochs = 150


class nnUNetTrainerDistilled_250epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 250 epochs."""

    default_num_epochs = 250


class nnUNetTrainerDistilled_500epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 500 epochs."""

    default_num_epochs = 500


class nnUNetTrainerDistilled_1000epochs(nnUNetTrainerDistilled):
    """nnU-Net's network with self-distillation, trained for 1000 epochs: the default, by its name."""

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


class nnUNetTrainerVMUNet_150epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 150 epochs."""

    default_num_epochs = 150


class nnUNetTrainerVMUNet_250epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 250 epochs."""

    default_num_epochs = 250


class nnUNetTrainerVMUNet_500epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 500 epochs."""

    default_num_epochs = 500


class nnUNetTrainerVMUNet_1000epochs(nnUNetTrainerVMUNet):
    """VM-UNet, trained for 1000 epochs."""

    default_num_epochs = 1000
