"""What a trainer says of itself without an instance: what a class mixes in, states and leaves to nnU-Net."""

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs

from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.layers.reliable import ReliableTraining
from nnunetv2_dsvm.training.variants import (
    nnUNetTrainerDSVM,
    nnUNetTrainerDSVM_fine,
    nnUNetTrainerDSVM_kl,
    nnUNetTrainerDSVM_projection,
    nnUNetTrainerVMUNet_20epochs,
    nnUNetTrainerVMUNet_150epochs_noScan,
    nnUNetTrainerVMUNet_deepSupervision,
)


class OwnWeights(nnUNetTrainerDSVM):
    num_epochs = 7
    lambda_projection = 0.25


class Shorter(nnUNetTrainerDSVM, nnUNetTrainer_5epochs):
    """Its length stands in an `__init__`, which a layer's default gives way to."""


class ShorterStill(nnUNetTrainerDSVM, nnUNetTrainer_5epochs):
    num_epochs = 3


class OtherNetwork(nnUNetTrainerVMUNet_deepSupervision):
    patch_embedding_stride = 2
    stem = "convolutions"
    full_resolution_channels = 24


class OtherOptimiser(nnUNetTrainerDSVM_projection, nnUNetTrainerAdam):
    pass


class AnyNetwork(DistilledTraining, ReliableTraining, nnUNetTrainer):
    pass


class OwnNetwork(AnyNetwork):
    @staticmethod
    def build_network_architecture(*arguments):
        raise NotImplementedError


BOTH = "projection 1, progressive 0.1"


@pytest.mark.parametrize(("trainer", "expected"), [
    (nnUNetTrainerDSVM, ("VM-UNet", "2D, 3D", BOTH, "AdamW", "300")),
    (nnUNetTrainerDSVM_kl, ("VM-UNet", "2D, 3D", f"{BOTH} (kl)", "AdamW", "300")),
    (nnUNetTrainerVMUNet_20epochs, ("VM-UNet", "2D, 3D", "", "AdamW", "20")),
    (nnUNetTrainerVMUNet_deepSupervision, ("VM-UNet with deep supervision", "2D, 3D", "", "AdamW", "300")),
    (nnUNetTrainerVMUNet_150epochs_noScan, ("VM-UNet, scan False", "2D, 3D", "", "AdamW", "150")),
    (nnUNetTrainerDSVM_fine, ("VM-UNet, fine_channels 32, drop_path_rate 0.0", "2D, 3D", BOTH, "AdamW", "300")),
    (OtherNetwork, (
        "VM-UNet with deep supervision, patch_embedding_stride 2, stem convolutions, full_resolution_channels 24",
        "2D, 3D", "", "AdamW", "300",
    )),
    (OwnWeights, ("VM-UNet", "2D, 3D", "projection 0.25, progressive 0.1", "AdamW", "7")),
    (Shorter, ("VM-UNet", "2D, 3D", BOTH, "AdamW", "nnUNetTrainer_5epochs's")),
    (ShorterStill, ("VM-UNet", "2D, 3D", BOTH, "AdamW", "3")),
    (OtherOptimiser, ("VM-UNet", "2D, 3D", "projection 1", "nnUNetTrainerAdam's", "300")),
    (AnyNetwork, ("of the plans", "2D, 3D", BOTH, "nnU-Net's", "nnU-Net's")),
    (OwnNetwork, ("OwnNetwork's", "", BOTH, "nnU-Net's", "nnU-Net's")),
], ids=lambda value: getattr(value, "__name__", None))  # fmt: skip
def test_in_short(trainer, expected):
    keys = ("network", "dimensions", "terms", "optimiser", "epochs")
    assert trainer.in_short() == dict(zip(keys, expected, strict=True))
