"""For scans that all show the patient the same way up: both trainers, in every length, without flips."""

import numpy as np
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

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
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = [
    "FixedOrientation",
    "nnUNetTrainerDSVM_1epochs_FixedOrientation",
    "nnUNetTrainerDSVM_5epochs_FixedOrientation",
    "nnUNetTrainerDSVM_10epochs_FixedOrientation",
    "nnUNetTrainerDSVM_20epochs_FixedOrientation",
    "nnUNetTrainerDSVM_50epochs_FixedOrientation",
    "nnUNetTrainerDSVM_100epochs_FixedOrientation",
    "nnUNetTrainerDSVM_150epochs_FixedOrientation",
    "nnUNetTrainerDSVM_250epochs_FixedOrientation",
    "nnUNetTrainerDSVM_500epochs_FixedOrientation",
    "nnUNetTrainerDSVM_1000epochs_FixedOrientation",
    "nnUNetTrainerDSVM_FixedOrientation",
    "nnUNetTrainerVMUNet_1epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_5epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_10epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_20epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_50epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_100epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_150epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_250epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_500epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_1000epochs_FixedOrientation",
    "nnUNetTrainerVMUNet_FixedOrientation",
]


class FixedOrientation:
    """For scans that all show the patient the same way up, where left and right differ: no flips, rotations to ±15°.

    nnU-Net's own recipe flips along all axes and rotates images, unless they are 1.5 times as long as wide, and thick
    slices by ±180°, other volumes by ±30°: a liver must then be told from a spleen without knowing the side. Inference
    does not flip either, and is 4 times as fast in 2D, 8 times in 3D.
    """

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        _, dummy_2d, _, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        angles = (-np.pi / 12, np.pi / 12)
        # the same margin as in nnU-Net's method, for the corners that turn out of the patch and for scaling
        initial_patch_size = get_patch_size(self.configuration_manager.patch_size, angles, angles, angles, (0.85, 1.25))
        if dummy_2d:  # slices of thick ones are turned in their planes only
            initial_patch_size[0] = self.configuration_manager.patch_size[0]
        self.inference_allowed_mirroring_axes = None
        return angles, dummy_2d, initial_patch_size, None


class nnUNetTrainerDSVM_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM):
    """DSVM-UNet for scans that all show the patient the same way up."""


class nnUNetTrainerDSVM_1epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_1epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 1 epoch."""


class nnUNetTrainerDSVM_5epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_5epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 5 epochs."""


class nnUNetTrainerDSVM_10epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_10epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 10 epochs."""


class nnUNetTrainerDSVM_20epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_20epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 20 epochs."""


class nnUNetTrainerDSVM_50epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_50epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 50 epochs."""


class nnUNetTrainerDSVM_100epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_100epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 100 epochs."""


class nnUNetTrainerDSVM_150epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_150epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 150 epochs."""


class nnUNetTrainerDSVM_250epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_250epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 250 epochs."""


class nnUNetTrainerDSVM_500epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_500epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 500 epochs."""


class nnUNetTrainerDSVM_1000epochs_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM_1000epochs):
    """DSVM-UNet for scans that all show the patient the same way up, trained for 1000 epochs."""


class nnUNetTrainerVMUNet_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet):
    """VM-UNet for scans that all show the patient the same way up."""


class nnUNetTrainerVMUNet_1epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_1epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 1 epoch."""


class nnUNetTrainerVMUNet_5epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_5epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 5 epochs."""


class nnUNetTrainerVMUNet_10epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_10epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 10 epochs."""


class nnUNetTrainerVMUNet_20epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_20epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 20 epochs."""


class nnUNetTrainerVMUNet_50epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_50epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 50 epochs."""


class nnUNetTrainerVMUNet_100epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_100epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 100 epochs."""


class nnUNetTrainerVMUNet_150epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_150epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 150 epochs."""


class nnUNetTrainerVMUNet_250epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_250epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 250 epochs."""


class nnUNetTrainerVMUNet_500epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_500epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 500 epochs."""


class nnUNetTrainerVMUNet_1000epochs_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet_1000epochs):
    """VM-UNet for scans that all show the patient the same way up, trained for 1000 epochs."""
