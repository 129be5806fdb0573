"""nnUNetTrainerVMUNet: nnU-Net's trainer with the VM-UNet and its recipe, and without distillation."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.training.layers.recipe import VisionMambaRecipe
from nnunetv2_dsvm.training.layers.reliable import ReliableTraining
from nnunetv2_dsvm.training.layers.vm_unet_network import VMUNetNetwork


class nnUNetTrainerVMUNet(ReliableTraining, VisionMambaRecipe, VMUNetNetwork, nnUNetTrainer):
    """Trains a plain VM-UNet (arXiv 2402.02491) inside nnU-Net: the control beside `nnUNetTrainerDSVM`.

    From VM-UNet's published recipe: the network, AdamW with a learning rate of 1e-3 and a weight decay of 1e-2, one
    cosine to 1e-5, 300 epochs, no deep supervision. nnU-Net's: data, augmentation, patch and batch size, loss (Dice +
    CE, or Dice + BCE for regions), 250 iterations per epoch, gradient clipping, validation, inference. Ours: no weight
    decay on A_log, D, biases and norms; a linear warm-up over a thirtieth of the epochs; random initial weights (the
    recipe starts from ImageNet's); bf16 where the GPU has it; a stop at the first loss that is not finite; repeatable
    runs by NNUNETV2_DSVM_SEED (two CPU runs with nnUNet_n_proc_DA=0 give the same losses).

    A variant overrides one of the class attributes of the layers, or one of nnU-Net's own settings in its body
    (`num_epochs`, `num_iterations_per_epoch`, …). nnU-Net's variants can be mixed in, in front or behind.
    """
