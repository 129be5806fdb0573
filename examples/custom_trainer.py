"""DSVM-UNet with weights of your own for the two distillation terms.

Copy this file into a folder of your own and name that folder to nnU-Net:

    export nnUNet_extTrainer=FOLDER
    nnUNetv2_train 27 2d 0 -tr nnUNetTrainerDSVM_ownWeights
"""

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM


class nnUNetTrainerDSVM_ownWeights(nnUNetTrainerDSVM):
    lambda_projection = 0.3
    lambda_progressive = 0.05
