"""For an encoder with pretrained weights: it stays as it is for 10 epochs, while the rest, new, learns to use it.

As Swin-UMamba (arXiv 2402.03302) does. Frozen is a learning rate of 0: gradients are still computed, which costs these
few epochs what the others cost, and spares DDP and CUDA graphs a network that changes under them. The gradients count
in the norm that nnU-Net clips, too. Afterwards the encoder has the learning rate of the rest; `encoder_lr_factor` in a
variant of your own lowers it:

    class nnUNetTrainerDSVM_slowEncoder(nnUNetTrainerDSVM_frozenEncoder):
        encoder_lr_factor = 0.1
"""

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = ["nnUNetTrainerDSVM_frozenEncoder", "nnUNetTrainerVMUNet_frozenEncoder"]


class nnUNetTrainerDSVM_frozenEncoder(nnUNetTrainerDSVM):
    """DSVM-UNet with a pretrained encoder that is frozen for the first epochs."""

    frozen_encoder_epochs = 10


class nnUNetTrainerVMUNet_frozenEncoder(nnUNetTrainerVMUNet):
    """VM-UNet with a pretrained encoder that is frozen for the first epochs."""

    frozen_encoder_epochs = 10
