"""nnUNetTrainerDistilled: nnU-Net's own network and recipe, with dual self-distillation."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.layers.reliable import ReliableTraining


class nnUNetTrainerDistilled(DistilledTraining, ReliableTraining, nnUNetTrainer):
    """Trains the network of the plans, in 2D or 3D, as nnU-Net does, with the two terms of DSVM-UNet on its stages.

    For nnU-Net's own networks (PlainConvUNet, ResidualEncoderUNet, ResidualUNet), and for others whose modules a
    subclass names. The recipe is nnU-Net's: SGD, polynomial decay, 1000 epochs, deep supervision, torch.compile and
    gradient scaling as it decides. Its control is `nnUNetTrainer`: what is drawn, trained and predicted is the same but
    for the terms and their projections, and with weights of 0 the losses are equal to the bit on a CPU.

    From the paper (arXiv 2601.19690): the two terms. Ours: their weights and ramp, which are those of
    `nnUNetTrainerDSVM` and not chosen for these networks, and the stages they are computed on: those of a quarter of
    the resolution and less, as the paper's.

    A checkpoint's network has the names and shapes of nnU-Net's own, and predicts as fast.
    """
