"""nnU-Net's own variants mixed into the trainers, in front of ours or behind."""

import os

import pytest
import torch
from helpers.mixed_trainers import EPOCHS_250, Thousand, nnunets, trains_everything
from nnunetv2.training.loss.compound_losses import DC_and_topk_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss, TopKLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

from nnunetv2_dsvm.training import variants
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.optimization import WarmupCosineSchedule
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")
TOPK = nnunets("loss.nnUNetTrainerTopkLoss", "nnUNetTrainerTopk10Loss")
DICE_TOPK = nnunets("loss.nnUNetTrainerTopkLoss", "nnUNetTrainerDiceTopK10Loss")
CE_5 = nnunets("loss.nnUNetTrainerCELoss", "nnUNetTrainerCELoss_5epochs")
DICE = nnunets("loss.nnUNetTrainerDiceLoss", "nnUNetTrainerDiceLoss")
NO_SMOOTH = nnunets("loss.nnUNetTrainerDiceLoss", "nnUNetTrainerDiceCELoss_noSmooth")
ADAM = nnunets("optimizer.nnUNetTrainerAdam", "nnUNetTrainerAdam")
ADAM_3E4 = nnunets("optimizer.nnUNetTrainerAdam", "nnUNetTrainerVanillaAdam3en4")
COSINE = nnunets("lr_schedule.nnUNetTrainerCosAnneal", "nnUNetTrainerCosAnneal")
WARMUP = nnunets("lr_schedule.nnUNetTrainer_warmup", "nnUNetTrainer_warmup")
NO_MIRRORING = nnunets("data_augmentation.nnUNetTrainerNoMirroring", "nnUNetTrainerNoMirroring")
DA5 = nnunets("data_augmentation.nnUNetTrainerDA5", "nnUNetTrainerDA5")
NO_DA = nnunets("data_augmentation.nnUNetTrainerNoDA", "nnUNetTrainerNoDA")
OVERSAMPLING = nnunets(
    "sampling.nnUNetTrainer_probabilisticOversampling", "nnUNetTrainer_probabilisticOversampling_010"
)
NO_DEEP_SUPERVISION = nnunets("network_architecture.nnUNetTrainerNoDeepSupervision", "nnUNetTrainerNoDeepSupervision")
BATCH_NORM = nnunets("network_architecture.nnUNetTrainerBN", "nnUNetTrainerBN")


def loss_is(kind):
    return lambda t: type(getattr(t.loss, "segmentation_loss", t.loss)) is kind


def optimiser_is(optimiser, schedule):
    return lambda t: (type(t.optimizer), type(t.lr_scheduler)) == (optimiser, schedule)


WHAT_IT_BRINGS = {
    TOPK: loss_is(TopKLoss),
    DICE_TOPK: loss_is(DC_and_topk_loss),
    CE_5: lambda t: loss_is(RobustCrossEntropyLoss)(t) and t.num_epochs == 5,
    DICE: loss_is(MemoryEfficientSoftDiceLoss),
    NO_SMOOTH: lambda t: getattr(t.loss, "segmentation_loss", t.loss).dc.smooth == 0,
    ADAM: lambda t: optimiser_is(torch.optim.AdamW, PolyLRScheduler)(t) and t.optimizer.defaults["amsgrad"],
    ADAM_3E4: lambda t: optimiser_is(torch.optim.Adam, PolyLRScheduler)(t) and t.initial_lr == 3e-4,
    COSINE: optimiser_is(torch.optim.SGD, CosineAnnealingLR),
    EPOCHS_250: lambda t: t.num_epochs == 250 and t.lr_scheduler.constants["num_epochs"] == 250,
    Thousand: lambda t: t.num_epochs == 1000,
    NO_MIRRORING: lambda t: t.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] is None,
    DA5: lambda t: t.get_training_transforms is DA5.get_training_transforms,
    NO_DA: lambda t: t.get_training_transforms is NO_DA.get_training_transforms,
    OVERSAMPLING: lambda t: t.probabilistic_oversampling and t.oversample_foreground_percent == 0.1,
    NO_DEEP_SUPERVISION: lambda t: not t.enable_deep_supervision,
}


@pytest.mark.parametrize("front", [True, False], ids=["in front", "behind"])
@pytest.mark.parametrize("variant", WHAT_IT_BRINGS, ids=lambda v: v.__name__)
def test_nnunets_variants_mix_in(make, variant, front):
    bases = (variant, nnUNetTrainerDSVM) if front else (nnUNetTrainerDSVM, variant)
    trainer = make(type("Mixed", bases, {}))
    trainer.initialize()
    assert WHAT_IT_BRINGS[variant](trainer)
    if variant not in (EPOCHS_250, CE_5, Thousand):  # and nothing else of ours is lost
        assert trainer.num_epochs == 300
    if variant not in (ADAM, ADAM_3E4, COSINE):
        assert isinstance(trainer.lr_scheduler, WarmupCosineSchedule) and trainer.initial_lr == 1e-3
    trains_everything(trainer)


@pytest.mark.parametrize("front", [True, False], ids=["in front", "behind"])
def test_a_loss_of_nnunets_variants_meets_deep_supervision(make, front):
    ours = variants.nnUNetTrainerDSVM_deepSupervision
    trainer = make(type("Mixed", (TOPK, ours) if front else (ours, TOPK), {}))
    trainer.initialize()
    assert isinstance(trainer.loss.segmentation_loss.loss, TopKLoss)
    trains_everything(trainer)


def test_the_control_mixes_too(make):
    trainer = make(type("Mixed", (nnUNetTrainerVMUNet, DICE, ADAM, EPOCHS_250), {}))
    trainer.initialize()
    assert loss_is(MemoryEfficientSoftDiceLoss)(trainer) and trainer.num_epochs == 250
    assert optimiser_is(torch.optim.AdamW, PolyLRScheduler)(trainer)


def test_a_variant_with_stages_of_its_own_trains_behind_ours_and_is_refused_in_front(make, tmp_path):
    trainer = make(type("Mixed", (nnUNetTrainerDSVM, WARMUP), {}))
    trainer.initialize()
    assert trainer.num_epochs == 1000 and trainer.training_stage == "warmup_all"
    trains_everything(trainer)
    with pytest.raises(ValueError, match="nnUNetTrainer_warmup.load_checkpoint does not call super.*behind"):
        make(type("Mixed", (WARMUP, nnUNetTrainerDSVM), {}), run="b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("ours", [nnUNetTrainerDSVM, nnUNetTrainerVMUNet], ids=lambda c: c.__name__)
def test_another_network_is_refused(make, tmp_path, ours):
    for bases in (ours, BATCH_NORM), (BATCH_NORM, ours):
        with pytest.raises(ValueError, match="nnUNetTrainerBN, whose build_network_architecture.*leave.*out"):
            make(type("Mixed", bases, {}), run="b")
        assert not (tmp_path / "b").exists()

    class Other(ours):
        @staticmethod
        def build_network_architecture(*arguments, **keywords):
            network = torch.nn.Module()
            network.encoder = network.decoder = torch.nn.Conv2d(1, 1, 1)
            return network

    with pytest.raises(ValueError, match="but its build_network_architecture gives a Module|Module is not built like"):
        make(Other).initialize()


def test_deep_supervision_that_inference_would_not_know_of_is_refused(make):
    class Switched(nnUNetTrainerDSVM):
        def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.enable_deep_supervision = True

    with pytest.raises(ValueError, match="default_deep_supervision = True in the body"):
        make(Switched).initialize()
    trainer = make(type("Stated", (nnUNetTrainerDSVM,), {"enable_deep_supervision": True}))
    trainer.initialize()
    assert len(trainer.network.decoder.seg_layers) == 3


def test_a_frozen_encoder_needs_our_optimiser(make):
    trainer = make(type("Mixed", (variants.nnUNetTrainerDSVM_frozenEncoder, ADAM), {}))
    with pytest.raises(ValueError, match="frozen_encoder_epochs 10, which belong to this package's optimiser"):
        trainer.initialize()


def test_deep_supervision_scales_are_known_before_the_network(make):
    trainer = make(variants.nnUNetTrainerDSVM_deepSupervision)
    before = trainer._get_deep_supervision_scales()
    trainer.initialize()
    assert before == trainer._get_deep_supervision_scales() and len(before) == 3


def test_another_optimiser_s_checkpoint_is_refused(make):
    class Groups:
        half = 2

        def configure_optimizers(self):
            parameters = list(self.network.parameters())
            groups = [{"params": parameters[: -self.half]}, {"params": parameters[-self.half :]}]
            optimizer = torch.optim.SGD(groups, 0.1)
            return optimizer, PolyLRScheduler(optimizer, 0.1, 10)

    trainer = make(type("Mine", (Groups, nnUNetTrainerDSVM), {}))
    trainer.initialize()
    path = os.path.join(trainer.output_folder, "checkpoint_latest.pth")
    trainer.save_checkpoint(path)
    with pytest.raises(RuntimeError, match="groups of its optimiser have .* Continue with the configure_optimizers"):
        make(type("Mine", (Groups, nnUNetTrainerDSVM), {"half": 4}), continued=True).load_checkpoint(path)
