"""nnUNetTrainerDSVM: the VM-UNet trained with dual self-distillation."""

from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet


class nnUNetTrainerDSVM(DistilledTraining, nnUNetTrainerVMUNet):
    """Trains DSVM-UNet (arXiv 2601.19690): the VM-UNet of `nnUNetTrainerVMUNet`, pulled together by its own features.

    From the paper: the two terms, projection (global) and progressive (local) self-distillation, with the mean squared
    error, and a network that is a plain VM-UNet at inference. Ours: the weights of the terms, the division of each by
    its number of pairs, the linear ramp over the first tenth of the epochs, and how features are brought to one shape
    (see `nnunetv2_dsvm.distillation`). Everything else is as in `nnUNetTrainerVMUNet`, so that the two compare.

    The defaults come from the first study in `examples/accuracy_study` (two tiny datasets, one validation fold each,
    five or eight epochs, one to three seeds): of the projection term's weights 0.01 to 10, 1 gave the most on both; 0,
    0.1 and 1 of the progressive term beside it differed by less than the seeds. Nothing else that was varied gained on
    both by more than the seeds' spread. In the test, after twelve epochs, Dice was 0.026 ± 0.018 and 0.019 ± 0.008
    above that without distillation (three seeds); two smaller networks gained on one of the two datasets only.

    A variant overrides one of the class attributes of the layers.
    """
