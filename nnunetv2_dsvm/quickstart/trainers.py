"""What `nnUNetv2_dsvm quickstart` trains with."""

from nnunetv2_dsvm.training.variants.lengths import (
    nnUNetTrainerDSVM_1epochs,
    nnUNetTrainerDSVM_5epochs,
    nnUNetTrainerDSVM_10epochs,
    nnUNetTrainerDSVM_20epochs,
    nnUNetTrainerDSVM_50epochs,
    nnUNetTrainerDSVM_100epochs,
    nnUNetTrainerDSVM_250epochs,
    nnUNetTrainerDSVM_500epochs,
    nnUNetTrainerDSVM_1000epochs,
    nnUNetTrainerVMUNet_1epochs,
    nnUNetTrainerVMUNet_5epochs,
    nnUNetTrainerVMUNet_10epochs,
    nnUNetTrainerVMUNet_20epochs,
    nnUNetTrainerVMUNet_50epochs,
    nnUNetTrainerVMUNet_100epochs,
    nnUNetTrainerVMUNet_250epochs,
    nnUNetTrainerVMUNet_500epochs,
    nnUNetTrainerVMUNet_1000epochs,
)
from nnunetv2_dsvm.training.variants.orientation import FixedOrientation

__all__ = [
    "nnUNetTrainerDSVM_1epochs_quickstart",
    "nnUNetTrainerDSVM_5epochs_quickstart",
    "nnUNetTrainerDSVM_10epochs_quickstart",
    "nnUNetTrainerDSVM_20epochs_quickstart",
    "nnUNetTrainerDSVM_50epochs_quickstart",
    "nnUNetTrainerDSVM_100epochs_quickstart",
    "nnUNetTrainerDSVM_250epochs_quickstart",
    "nnUNetTrainerDSVM_500epochs_quickstart",
    "nnUNetTrainerDSVM_1000epochs_quickstart",
    "nnUNetTrainerVMUNet_1epochs_quickstart",
    "nnUNetTrainerVMUNet_5epochs_quickstart",
    "nnUNetTrainerVMUNet_10epochs_quickstart",
    "nnUNetTrainerVMUNet_20epochs_quickstart",
    "nnUNetTrainerVMUNet_50epochs_quickstart",
    "nnUNetTrainerVMUNet_100epochs_quickstart",
    "nnUNetTrainerVMUNet_250epochs_quickstart",
    "nnUNetTrainerVMUNet_500epochs_quickstart",
    "nnUNetTrainerVMUNet_1000epochs_quickstart",
]


class Quickstart(FixedOrientation):
    """A network this small learns faster at a higher rate, and the patients all lie as patients do."""

    default_initial_lr = 3e-3


class nnUNetTrainerDSVM_1epochs_quickstart(Quickstart, nnUNetTrainerDSVM_1epochs):
    """DSVM-UNet of the quickstart, trained for 1 epoch."""


class nnUNetTrainerDSVM_5epochs_quickstart(Quickstart, nnUNetTrainerDSVM_5epochs):
    """DSVM-UNet of the quickstart, trained for 5 epochs."""


class nnUNetTrainerDSVM_10epochs_quickstart(Quickstart, nnUNetTrainerDSVM_10epochs):
    """DSVM-UNet of the quickstart, trained for 10 epochs."""


class nnUNetTrainerDSVM_20epochs_quickstart(Quickstart, nnUNetTrainerDSVM_20epochs):
    """DSVM-UNet of the quickstart, trained for 20 epochs."""


class nnUNetTrainerDSVM_50epochs_quickstart(Quickstart, nnUNetTrainerDSVM_50epochs):
    """DSVM-UNet of the quickstart, trained for 50 epochs."""


class nnUNetTrainerDSVM_100epochs_quickstart(Quickstart, nnUNetTrainerDSVM_100epochs):
    """DSVM-UNet of the quickstart, trained for 100 epochs."""


class nnUNetTrainerDSVM_250epochs_quickstart(Quickstart, nnUNetTrainerDSVM_250epochs):
    """DSVM-UNet of the quickstart, trained for 250 epochs."""


class nnUNetTrainerDSVM_500epochs_quickstart(Quickstart, nnUNetTrainerDSVM_500epochs):
    """DSVM-UNet of the quickstart, trained for 500 epochs."""


class nnUNetTrainerDSVM_1000epochs_quickstart(Quickstart, nnUNetTrainerDSVM_1000epochs):
    """DSVM-UNet of the quickstart, trained for 1000 epochs."""


class nnUNetTrainerVMUNet_1epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_1epochs):
    """VM-UNet of the quickstart, trained for 1 epoch."""


class nnUNetTrainerVMUNet_5epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_5epochs):
    """VM-UNet of the quickstart, trained for 5 epochs."""


class nnUNetTrainerVMUNet_10epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_10epochs):
    """VM-UNet of the quickstart, trained for 10 epochs."""


class nnUNetTrainerVMUNet_20epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_20epochs):
    """VM-UNet of the quickstart, trained for 20 epochs."""


class nnUNetTrainerVMUNet_50epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_50epochs):
    """VM-UNet of the quickstart, trained for 50 epochs."""


class nnUNetTrainerVMUNet_100epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_100epochs):
    """VM-UNet of the quickstart, trained for 100 epochs."""


class nnUNetTrainerVMUNet_250epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_250epochs):
    """VM-UNet of the quickstart, trained for 250 epochs."""


class nnUNetTrainerVMUNet_500epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_500epochs):
    """VM-UNet of the quickstart, trained for 500 epochs."""


class nnUNetTrainerVMUNet_1000epochs_quickstart(Quickstart, nnUNetTrainerVMUNet_1000epochs):
    """VM-UNet of the quickstart, trained for 1000 epochs."""
