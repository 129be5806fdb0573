"""What a user of 0.1.0 has written: DSVM-UNet with four short epochs."""

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM


class nnUNetTrainerDSVM_short(nnUNetTrainerDSVM):
    """Four epochs of two steps, with a checkpoint after each."""

    default_num_epochs = 4

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1
        self.save_every = 1
