"""The variants of the two trainers, one override each. nnU-Net finds every class here by its name (`-tr`)."""

import numpy as np
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet


class nnUNetTrainerDSVM_projection(nnUNetTrainerDSVM):
    """Ablation: only the global term."""

    distillation_terms = ("projection",)


class nnUNetTrainerDSVM_progressive(nnUNetTrainerDSVM):
    """Ablation: only the local term."""

    distillation_terms = ("progressive",)


class nnUNetTrainerDSVM_kl(nnUNetTrainerDSVM):
    """Kullback-Leibler divergence over channels in the place of the mean squared error."""

    distillation_distance = "kl"


class _DeepSupervision:
    """Ours: heads on the decoder's stages too, trained as nnU-Net trains its own, and unused at inference."""

    default_deep_supervision = True


class nnUNetTrainerDSVM_deepSupervision(_DeepSupervision, nnUNetTrainerDSVM):
    """DSVM-UNet with nnU-Net's deep supervision."""


class nnUNetTrainerVMUNet_deepSupervision(_DeepSupervision, nnUNetTrainerVMUNet):
    """VM-UNet with nnU-Net's deep supervision."""


class _FrozenEncoder:
    """For an encoder with pretrained weights: it stays as it is for 10 epochs, while the rest, new, learns to use it.

    As Swin-UMamba (arXiv 2402.03302) does. Frozen is a learning rate of 0: gradients are still computed, which costs
    these few epochs what the others cost, and spares DDP and CUDA graphs a network that changes under them. The
    gradients count in the norm that nnU-Net clips, too. Afterwards the encoder has the learning rate of the rest;
    `encoder_lr_factor` in a variant of your own lowers it:

        class nnUNetTrainerDSVM_slowEncoder(nnUNetTrainerDSVM_frozenEncoder):
            encoder_lr_factor = 0.1
    """

    frozen_encoder_epochs = 10


class nnUNetTrainerDSVM_frozenEncoder(_FrozenEncoder, nnUNetTrainerDSVM):
    """DSVM-UNet with a pretrained encoder that is frozen for the first epochs."""


class nnUNetTrainerVMUNet_frozenEncoder(_FrozenEncoder, nnUNetTrainerVMUNet):
    """VM-UNet with a pretrained encoder that is frozen for the first epochs."""


class nnUNetTrainerDSVM_1epochs(nnUNetTrainerDSVM):
    default_num_epochs = 1


class nnUNetTrainerDSVM_5epochs(nnUNetTrainerDSVM):
    default_num_epochs = 5


class nnUNetTrainerDSVM_10epochs(nnUNetTrainerDSVM):
    default_num_epochs = 10


class nnUNetTrainerDSVM_20epochs(nnUNetTrainerDSVM):
    default_num_epochs = 20


class nnUNetTrainerDSVM_50epochs(nnUNetTrainerDSVM):
    default_num_epochs = 50


class nnUNetTrainerDSVM_100epochs(nnUNetTrainerDSVM):
    default_num_epochs = 100


class nnUNetTrainerDSVM_250epochs(nnUNetTrainerDSVM):
    default_num_epochs = 250


class nnUNetTrainerDSVM_500epochs(nnUNetTrainerDSVM):
    default_num_epochs = 500


class nnUNetTrainerDSVM_1000epochs(nnUNetTrainerDSVM):
    default_num_epochs = 1000


class nnUNetTrainerVMUNet_1epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 1


class nnUNetTrainerVMUNet_5epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 5


class nnUNetTrainerVMUNet_10epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 10


class nnUNetTrainerVMUNet_20epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 20


class nnUNetTrainerVMUNet_50epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 50


class nnUNetTrainerVMUNet_100epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 100


class nnUNetTrainerVMUNet_250epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 250


class nnUNetTrainerVMUNet_500epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 500


class nnUNetTrainerVMUNet_1000epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 1000


class FixedOrientation:
    """For scans that all show the patient the same way up, where left and right differ: no flips, rotations to ±15°.

    nnU-Net's own recipe flips along both axes and, unless the patch is 1.5 times as long as wide, rotates by ±180°: a
    liver must then be told from a spleen without knowing the side. Inference does not flip either, and is 4 times as
    fast.
    """

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        _, dummy_2d, _, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        angles = (-np.pi / 12, np.pi / 12)
        # the same margin as in nnU-Net's method, for the corners that turn out of the patch and for scaling
        initial_patch_size = get_patch_size(self.configuration_manager.patch_size, angles, angles, angles, (0.85, 1.25))
        self.inference_allowed_mirroring_axes = None
        return angles, dummy_2d, initial_patch_size, None


class nnUNetTrainerDSVM_FixedOrientation(FixedOrientation, nnUNetTrainerDSVM):
    """DSVM-UNet for scans that all show the patient the same way up."""


class nnUNetTrainerVMUNet_FixedOrientation(FixedOrientation, nnUNetTrainerVMUNet):
    """VM-UNet for scans that all show the patient the same way up."""


class Quickstart(FixedOrientation):
    """What `nnUNetv2_dsvm quickstart` trains with: a network this small learns faster at a higher rate."""

    default_initial_lr = 3e-3


# Every length above with either mixin, as nnUNetTrainerDSVM_5epochs_FixedOrientation.
for _any_orientation in [_class for _name, _class in globals().items() if _name.endswith("epochs")]:
    for _suffix, _mixin in (("FixedOrientation", FixedOrientation), ("quickstart", Quickstart)):
        _name = f"{_any_orientation.__name__}_{_suffix}"
        globals()[_name] = type(_name, (_mixin, _any_orientation), {"__module__": __name__})
