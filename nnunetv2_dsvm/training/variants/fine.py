"""Ours, for structures finer than VM-UNet's patches: convolutional stages in the place of its patch embedding.

The study (`examples/accuracy_study`) chose both settings on one fold and tested them on the others.
"""

from nnunetv2_dsvm.architecture.vm_unet_sizes import FINE_CHANNELS
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.variants.lengths import (
    nnUNetTrainerDSVM_1epochs,
    nnUNetTrainerDSVM_5epochs,
    nnUNetTrainerDSVM_10epochs,
    nnUNetTrainerDSVM_20epochs,
    nnUNetTrainerDSVM_50epochs,
    nnUNetTrainerDSVM_100epochs,
    nnUNetTrainerDSVM_150epochs,
    nnUNetTrainerDSVM_250epochs,
    nnUNetTrainerDSVM_500epochs,
    nnUNetTrainerDSVM_1000epochs,
    nnUNetTrainerVMUNet_1epochs,
    nnUNetTrainerVMUNet_5epochs,
    nnUNetTrainerVMUNet_10epochs,
    nnUNetTrainerVMUNet_20epochs,
    nnUNetTrainerVMUNet_50epochs,
    nnUNetTrainerVMUNet_100epochs,
    nnUNetTrainerVMUNet_150epochs,
    nnUNetTrainerVMUNet_250epochs,
    nnUNetTrainerVMUNet_500epochs,
    nnUNetTrainerVMUNet_1000epochs,
)
from nnunetv2_dsvm.training.variants.orientation import FixedOrientation
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = [
    "nnUNetTrainerDSVM_1epochs_fine",
    "nnUNetTrainerDSVM_5epochs_fine",
    "nnUNetTrainerDSVM_10epochs_fine",
    "nnUNetTrainerDSVM_20epochs_fine",
    "nnUNetTrainerDSVM_50epochs_fine",
    "nnUNetTrainerDSVM_100epochs_fine",
    "nnUNetTrainerDSVM_150epochs_fine",
    "nnUNetTrainerDSVM_250epochs_fine",
    "nnUNetTrainerDSVM_500epochs_fine",
    "nnUNetTrainerDSVM_1000epochs_fine",
    "nnUNetTrainerDSVM_FixedOrientation_fine",
    "nnUNetTrainerDSVM_fine",
    "nnUNetTrainerVMUNet_1epochs_fine",
    "nnUNetTrainerVMUNet_5epochs_fine",
    "nnUNetTrainerVMUNet_10epochs_fine",
    "nnUNetTrainerVMUNet_20epochs_fine",
    "nnUNetTrainerVMUNet_50epochs_fine",
    "nnUNetTrainerVMUNet_100epochs_fine",
    "nnUNetTrainerVMUNet_150epochs_fine",
    "nnUNetTrainerVMUNet_250epochs_fine",
    "nnUNetTrainerVMUNet_500epochs_fine",
    "nnUNetTrainerVMUNet_1000epochs_fine",
    "nnUNetTrainerVMUNet_FixedOrientation_fine",
    "nnUNetTrainerVMUNet_fine",
]


class FineStages:
    """nnU-Net's convolutional stages at the finest resolutions, and no stochastic depth."""

    fine_channels: int | None = FINE_CHANNELS
    drop_path_rate: float | None = 0.0


class nnUNetTrainerDSVM_fine(FineStages, nnUNetTrainerDSVM):
    """DSVM-UNet with nnU-Net's convolutional stages at the finest resolutions, and without stochastic depth."""


class nnUNetTrainerDSVM_FixedOrientation_fine(FixedOrientation, nnUNetTrainerDSVM_fine):
    """DSVM-UNet with the fine stages, for scans that all show the patient the same way up."""


class nnUNetTrainerDSVM_1epochs_fine(FineStages, nnUNetTrainerDSVM_1epochs):
    """DSVM-UNet with the fine stages, trained for 1 epoch."""


class nnUNetTrainerDSVM_5epochs_fine(FineStages, nnUNetTrainerDSVM_5epochs):
    """DSVM-UNet with the fine stages, trained for 5 epochs."""


class nnUNetTrainerDSVM_10epochs_fine(FineStages, nnUNetTrainerDSVM_10epochs):
    """DSVM-UNet with the fine stages, trained for 10 epochs."""


class nnUNetTrainerDSVM_20epochs_fine(FineStages, nnUNetTrainerDSVM_20epochs):
    """DSVM-UNet with the fine stages, trained for 20 epochs."""


class nnUNetTrainerDSVM_50epochs_fine(FineStages, nnUNetTrainerDSVM_50epochs):
    """DSVM-UNet with the fine stages, trained for 50 epochs."""


class nnUNetTrainerDSVM_100epochs_fine(FineStages, nnUNetTrainerDSVM_100epochs):
    """DSVM-UNet with the fine stages, trained for 100 epochs."""


class nnUNetTrainerDSVM_150epochs_fine(FineStages, nnUNetTrainerDSVM_150epochs):
    """DSVM-UNet with the fine stages, trained for 150 epochs."""


class nnUNetTrainerDSVM_250epochs_fine(FineStages, nnUNetTrainerDSVM_250epochs):
    """DSVM-UNet with the fine stages, trained for 250 epochs."""


class nnUNetTrainerDSVM_500epochs_fine(FineStages, nnUNetTrainerDSVM_500epochs):
    """DSVM-UNet with the fine stages, trained for 500 epochs."""


class nnUNetTrainerDSVM_1000epochs_fine(FineStages, nnUNetTrainerDSVM_1000epochs):
    """DSVM-UNet with the fine stages, trained for 1000 epochs."""


class nnUNetTrainerVMUNet_fine(FineStages, nnUNetTrainerVMUNet):
    """VM-UNet with nnU-Net's convolutional stages at the finest resolutions, and without stochastic depth."""


class nnUNetTrainerVMUNet_FixedOrientation_fine(FixedOrientation, nnUNetTrainerVMUNet_fine):
    """VM-UNet with the fine stages, for scans that all show the patient the same way up."""


class nnUNetTrainerVMUNet_1epochs_fine(FineStages, nnUNetTrainerVMUNet_1epochs):
    """VM-UNet with the fine stages, trained for 1 epoch."""


class nnUNetTrainerVMUNet_5epochs_fine(FineStages, nnUNetTrainerVMUNet_5epochs):
    """VM-UNet with the fine stages, trained for 5 epochs."""


class nnUNetTrainerVMUNet_10epochs_fine(FineStages, nnUNetTrainerVMUNet_10epochs):
    """VM-UNet with the fine stages, trained for 10 epochs."""


class nnUNetTrainerVMUNet_20epochs_fine(FineStages, nnUNetTrainerVMUNet_20epochs):
    """VM-UNet with the fine stages, trained for 20 epochs."""


class nnUNetTrainerVMUNet_50epochs_fine(FineStages, nnUNetTrainerVMUNet_50epochs):
    """VM-UNet with the fine stages, trained for 50 epochs."""


class nnUNetTrainerVMUNet_100epochs_fine(FineStages, nnUNetTrainerVMUNet_100epochs):
    """VM-UNet with the fine stages, trained for 100 epochs."""


class nnUNetTrainerVMUNet_150epochs_fine(FineStages, nnUNetTrainerVMUNet_150epochs):
    """VM-UNet with the fine stages, trained for 150 epochs."""


class nnUNetTrainerVMUNet_250epochs_fine(FineStages, nnUNetTrainerVMUNet_250epochs):
    """VM-UNet with the fine stages, trained for 250 epochs."""


class nnUNetTrainerVMUNet_500epochs_fine(FineStages, nnUNetTrainerVMUNet_500epochs):
    """VM-UNet with the fine stages, trained for 500 epochs."""


class nnUNetTrainerVMUNet_1000epochs_fine(FineStages, nnUNetTrainerVMUNet_1000epochs):
    """VM-UNet with the fine stages, trained for 1000 epochs."""
