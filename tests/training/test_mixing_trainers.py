"""nnU-Net's own variants and a user's overrides, mixed with our trainers in both orders."""

import copy
import importlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.quick_nnunet import threads_for_processes
from helpers.short_trainers import ShortDistilled, ShortDSVM, ShortRun, assert_equal, checkpoint_of
from helpers.unets import unet_architecture
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss, DC_and_topk_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss, TopKLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim.lr_scheduler import CosineAnnealingLR

from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training import variants
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.layers import distilled, recipe, reliable, vm_unet_network
from nnunetv2_dsvm.training.optimization import WarmupCosineSchedule
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


def nnunets(module: str, name: str) -> type:
    return getattr(importlib.import_module(f"nnunetv2.training.nnUNetTrainer.variants.{module}"), name)


TOPK = nnunets("loss.nnUNetTrainerTopkLoss", "nnUNetTrainerTopk10Loss")
DICE_TOPK = nnunets("loss.nnUNetTrainerTopkLoss", "nnUNetTrainerDiceTopK10Loss")
CE_5 = nnunets("loss.nnUNetTrainerCELoss", "nnUNetTrainerCELoss_5epochs")
DICE = nnunets("loss.nnUNetTrainerDiceLoss", "nnUNetTrainerDiceLoss")
NO_SMOOTH = nnunets("loss.nnUNetTrainerDiceLoss", "nnUNetTrainerDiceCELoss_noSmooth")
ADAM = nnunets("optimizer.nnUNetTrainerAdam", "nnUNetTrainerAdam")
ADAM_3E4 = nnunets("optimizer.nnUNetTrainerAdam", "nnUNetTrainerVanillaAdam3en4")
COSINE = nnunets("lr_schedule.nnUNetTrainerCosAnneal", "nnUNetTrainerCosAnneal")
WARMUP = nnunets("lr_schedule.nnUNetTrainer_warmup", "nnUNetTrainer_warmup")
EPOCHS_250 = nnunets("training_length.nnUNetTrainer_Xepochs", "nnUNetTrainer_250epochs")
NO_MIRRORING = nnunets("data_augmentation.nnUNetTrainerNoMirroring", "nnUNetTrainerNoMirroring")
DA5 = nnunets("data_augmentation.nnUNetTrainerDA5", "nnUNetTrainerDA5")
NO_DA = nnunets("data_augmentation.nnUNetTrainerNoDA", "nnUNetTrainerNoDA")
OVERSAMPLING = nnunets(
    "sampling.nnUNetTrainer_probabilisticOversampling", "nnUNetTrainer_probabilisticOversampling_010"
)
NO_DEEP_SUPERVISION = nnunets("network_architecture.nnUNetTrainerNoDeepSupervision", "nnUNetTrainerNoDeepSupervision")
BATCH_NORM = nnunets("network_architecture.nnUNetTrainerBN", "nnUNetTrainerBN")


class Thousand(nnUNetTrainer):
    """Sets what nnU-Net's own trainer has anyway."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 1000


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


def batch(deep_supervision: bool = False):
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, 3, (2, 1, 32, 40), generator=generator)
    targets = [target[..., ::step, ::step] for step in (1, 4, 8)]
    return {
        "data": torch.randn(2, 1, 32, 40, generator=generator), "target": targets if deep_supervision else target
    }  # fmt: skip


def trains_everything(trainer) -> None:
    """One step changes the network and the projections, and the loss has all its terms."""
    modules = trainer.trained_modules()
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    trainer.on_train_epoch_start()
    for group in trainer.optimizer.param_groups:
        group["lr"] = max(group["lr"], 1e-3)  # a warm-up may begin with 0
    assert np.isfinite(trainer.train_step(batch(trainer.enable_deep_supervision))["loss"])
    for module, old in zip(modules, before, strict=True):
        changed = [not torch.equal(value, old[name]) for name, value in module.state_dict().items()]
        assert np.mean(changed) > 0.8
    assert set(trainer.loss_terms_of_last_step()) == {"segmentation_loss", "L_proj", "L_prog"}


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


# --- a user's own overrides -------------------------------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """A user's loss, of logits and target."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, output, target):
        assert isinstance(output, torch.Tensor)
        return 3 * self.loss(output, target)


class OwnHooks:
    """What nnU-Net's maintainers tell users to override, without super() where nnU-Net itself has none."""

    def _build_loss(self):
        return Scaled(super()._build_loss())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.9)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1000)

    def on_train_epoch_start(self):  # nnU-Net's, without its log
        self.network.train()
        self.lr_scheduler.step(self.current_epoch)
        self.logger.log("lrs", 0.01, self.current_epoch)


class Theirs(OwnHooks, nnUNetTrainer):
    """A trainer of a user that knows nothing of ours."""


@pytest.mark.parametrize(
    "bases", [(ShortRun, OwnHooks, nnUNetTrainerDSVM), (ShortRun, Theirs, nnUNetTrainerDSVM),
              (ShortRun, nnUNetTrainerDSVM, Theirs)], ids=["override", "their trainer in front", "behind"]
)  # fmt: skip
def test_own_loss_optimiser_and_schedule_train_and_continue(make, monkeypatch, bases):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "7")
    mixed = type("Mixed", bases, {"ramp_fraction": 1.0})
    straight = make(mixed, run="straight")
    straight.run_training()
    assert isinstance(straight.loss.segmentation_loss, Scaled)
    assert isinstance(straight.loss.segmentation_loss.loss, DC_and_CE_loss)
    assert isinstance(straight.optimizer, torch.optim.SGD)
    history = checkpoint_of(straight)["logging"]
    assert history["distillation_ramp"] == pytest.approx([1 / 4, 2 / 4, 3 / 4])  # although nobody announced the epoch
    assert len(set(history["L_proj"])) == 3
    first = make(type("Mixed", bases, {"ramp_fraction": 1.0, "cut_off_at": 2}), run="cut")
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    second = make(mixed, run="cut", continued=True)
    second.load_checkpoint(os.path.join(second.output_folder, "checkpoint_latest.pth"))
    second.run_training()
    assert straight.losses == first.losses + second.losses
    for key in ("network_weights", "optimizer_state", "nnunetv2_dsvm"):
        assert_equal(checkpoint_of(straight)[key], checkpoint_of(second)[key])


def test_a_loss_that_is_replaced_during_a_training_keeps_the_distillation(make):
    trainer = make(ShortDSVM)
    trainer.initialize()
    trainer.loss = lambda output, target: output.square().mean()
    trains_everything(trainer)


@pytest.mark.parametrize("step", ["logits", "forward", "own loss"])
def test_steps_that_pass_on_no_features_are_refused_or_said(make, step):
    """A training without the terms must not pass for one with them; validation and other losses go on."""
    trainer = make(ShortDistilled, architecture=unet_architecture(2)) if step == "forward" else make(ShortDSVM)
    trainer.initialize()
    image, target = torch.rand(2, 1, 32, 40), torch.zeros(2, 1, 32, 40)
    whole = trainer.network.train()(image)
    deep = isinstance(whole.logits, list)
    targets = [target[..., :: 32 // t.shape[2], :: 40 // t.shape[3]] for t in whole.logits] if deep else target
    trainer.loss(whole, targets)
    assert trainer.loss.mean_terms()["projection"] > 0
    if step == "own loss":  # in the next epoch: the terms of the one before do not stand in
        trainer.current_epoch = 1
        trainer.on_train_epoch_end([{"loss": 1.0}])
        assert np.isnan(trainer.logger.local_logger.my_fantastic_logging["L_proj"][-1])
        assert "Epoch 1 was trained without the distillation" in Path(trainer.log_file).read_text()
        return
    plain = whole.logits if step == "logits" else trainer.network.forward(image)
    with pytest.raises(UserValueError, match="features did not reach .*self.network.images. itself"):
        trainer.loss(plain, targets)
    trainer.loss.segmentation_loss(plain, targets).backward()
    with torch.no_grad():  # in training mode, as for dropout in validation
        trainer.loss(trainer.network.forward(image) if step == "forward" else trainer.network(image).logits, targets)
    assert trainer.loss(trainer.network.eval()(image), targets).isfinite()


class Loads(nnUNetTrainerDSVM):
    def load_checkpoint(self, filename_or_checkpoint):
        self.logger.load_checkpoint({})


class Saves(nnUNetTrainerDSVM):
    def save_checkpoint(self, filename):
        torch.save(self.network.state_dict(), filename)


class ByWrongName(nnUNetTrainerDSVM):
    def save_checkpoint(self, filename):
        nnUNetTrainer.save_checkpoint(self, filename)


class Logs(nnUNetTrainerDSVM):
    def on_train_epoch_end(self, train_outputs):
        self.logger.log("train_losses", 0.0, self.current_epoch)


class OldInit(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        nnUNetTrainer.__init__(self, plans, configuration, fold, dataset_json, device)
        self.num_epochs = 5


class Copies(nnUNetTrainer):
    def save_checkpoint(self, filename):
        super().save_checkpoint(filename)
        shutil.copy(filename, filename + ".bak")


class OwnLoss:
    def _build_loss(self):
        return Scaled(super()._build_loss())


class WeakDistillation(nnUNetTrainer):
    lambda_projection = 0.1


class TakesAnything(nnUNetTrainerDSVM):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (Loads, r"Loads.load_checkpoint does not call super\(\).load_checkpoint"),
        (Saves, r"Saves.save_checkpoint does not call super\(\).save_checkpoint"),
        (ByWrongName, r"ByWrongName.save_checkpoint does not call super\(\).save_checkpoint"),
        (Logs, "Logs.on_train_epoch_end does not call super"),
        (type("Mixed", (OldInit, nnUNetTrainerDSVM), {}), "OldInit.__init__ does not call super.*behind"),
        (type("Mixed", (nnUNetTrainerDSVM, Copies), {}), "Copies.save_checkpoint stands behind.*name Copies in front"),
        (type("Mixed", (nnUNetTrainerDSVM, OwnLoss), {}), "OwnLoss._build_loss would be ignored: nnUNetTrainer stands"),
        (
            type("Mixed", (nnUNetTrainerDSVM, variants.FixedOrientation), {}),
            "FixedOrientation.configure_rotation.* would be ignored.*Name FixedOrientation in front",
        ),
        (
            type("Mixed", (nnUNetTrainerDSVM, WeakDistillation), {}),
            "WeakDistillation.lambda_projection would be ignored: DistilledTraining stands in front",
        ),
        (
            type("Mixed", (Thousand, recipe.VisionMambaRecipe, nnUNetTrainer), {}),
            r"stands in front of .* layers.*class Trainer\(VisionMambaRecipe, nnUNetTrainer\)",
        ),
        (TakesAnything, "TakesAnything.__init__ must take plans, configuration.*: args, "),
    ],
)
def test_overrides_that_would_lose_something_are_refused(make, tmp_path, trainer, message):
    with pytest.raises(ValueError, match=message):
        make(trainer)
    assert not (tmp_path / "a").exists()


class Delegates(nnUNetTrainerDSVM):
    def save_checkpoint(self, filename):
        self.log_and_save(filename)

    def log_and_save(self, filename):
        print("saving")
        super().save_checkpoint(filename)


class Retries(nnUNetTrainerDSVM):
    def save_checkpoint(self, filename):
        def attempt():
            super(Retries, self).save_checkpoint(filename)

        self.print_to_log_file("saving")
        attempt()


def logged(function):
    def wrapper(self, *arguments):
        print("saving")
        return function(self, *arguments)

    return wrapper


class Decorated(nnUNetTrainerDSVM):
    @logged
    def save_checkpoint(self, filename):
        super().save_checkpoint(filename)


class CallsByName(nnUNetTrainerDSVM, OwnLoss):
    def _build_loss(self):
        return OwnLoss._build_loss(self) if self.fold else Scaled(super()._build_loss())


@pytest.mark.parametrize("trainer", [Delegates, Retries, Decorated, CallsByName], ids=lambda c: c.__name__)
def test_overrides_that_reach_their_base_in_another_way_are_not_refused(make, trainer):
    assert make(trainer).num_epochs == 300


def test_a_seed_needs_each_epochs_start(make, monkeypatch):
    own = type("Own", (nnUNetTrainerDSVM,), {"on_epoch_start": nnUNetTrainer.on_epoch_start})
    make(own)
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "1")
    with pytest.raises(ValueError, match="Own.on_epoch_start does not call super.*the seed of each epoch"):
        make(own, run="b")


class OwnRun:
    """A loop of a user's own, as for early stopping."""

    def run_training(self):
        self.on_train_start()
        self.current_epoch = 0
        self.on_train_epoch_start()
        self.train_step(batch())


class SeesTypes(nnUNetTrainer):
    def train_step(self, batch):
        self.seen = torch.get_autocast_dtype("cuda")
        return super().train_step(batch)


def test_steps_of_a_loop_of_ones_own_have_the_classs_precision(make):
    trainer = make(type("Mixed", (OwnRun, nnUNetTrainerDSVM, SeesTypes), {"precision": "bf16"}))
    trainer.run_training()
    assert trainer.seen == torch.bfloat16 != torch.get_autocast_dtype("cuda")
    both = type("Mixed", (OwnRun, nnUNetTrainerDSVM), {"train_step": nnUNetTrainer.train_step})
    with pytest.raises(ValueError, match="Mixed.train_step does not call super.*its precision .auto."):
        both.__new__(both).preflight(trainer.configuration_manager, torch.device("cuda"))


def test_settings_of_the_segmentation_loss_are_reached_through_the_distillation(make):
    trainer = make(variants.nnUNetTrainerDSVM_deepSupervision)
    trainer.initialize()
    trainer.loss.loss.weight_dice = 0.5
    trainer.loss.weight_factors = (1.0, 0.0, 0.0)
    segmentation = trainer.loss.segmentation_loss
    assert segmentation.loss.weight_dice == 0.5 and segmentation.weight_factors == (1.0, 0.0, 0.0)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trainer.loss.nothing


def test_layers_without_the_others(make):
    bases = (distilled.DistilledTraining, vm_unet_network.VMUNetNetwork, nnUNetTrainer)
    trainer = make(type("Layers", bases, {}))
    trainer.initialize()
    trains_everything(trainer)
    trainer.on_train_epoch_end([{"loss": 1.0}])
    assert trainer.logger.local_logger.my_fantastic_logging["L_proj"][0] > 0
    assert isinstance(trainer.optimizer, torch.optim.SGD)


@pytest.mark.parametrize(
    "layers",
    [
        (reliable.ReliableTraining,),
        (recipe.VisionMambaRecipe,),
        (vm_unet_network.VMUNetNetwork,),
        (distilled.DistilledTraining,),
        (distilled.DistilledTraining, vm_unet_network.VMUNetNetwork),  # which passes on features of its own
    ],
    ids=lambda layers: "+".join(layer.__name__ for layer in layers),
)
@threads_for_processes()
def test_a_layer_on_nnunets_trainer_alone_trains_validates_and_continues(make, layers):
    plans = {} if vm_unet_network.VMUNetNetwork in layers else {"architecture": unet_architecture(2)}
    bases = (ShortRun, *layers, nnUNetTrainer)
    first = make(type("Alone", bases, {"default_num_epochs": 1}), **plans)
    first.run_training()
    first.inference_allowed_mirroring_axes = None
    with threads_for_processes():
        first.perform_actual_validation()
    assert len(os.listdir(os.path.join(first.output_folder, "validation"))) == 2  # a label map, and their Dice
    second = make(type("Alone", bases, {"default_num_epochs": 2}), continued=True, **plans)
    second.load_checkpoint(os.path.join(first.output_folder, "checkpoint_final.pth"))
    assert_equal(first.network.state_dict(), second.network.state_dict())
    assert_equal(first.optimizer.state_dict()["state"], second.optimizer.state_dict()["state"])
    second.run_training()
    assert np.isfinite(first.losses + second.losses).all() and len(second.losses) == 2
    assert checkpoint_of(second)["current_epoch"] == 2


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


def test_a_checkpoint_hook_may_do_nothing_or_call_its_base_by_name(make):
    def nothing(self, filename):
        pass

    def by_name(self, filename):
        nnUNetTrainerDSVM.save_checkpoint(self, filename)

    for run, hook in enumerate((nothing, by_name)):
        trainer = make(type("Mine", (nnUNetTrainerDSVM,), {"save_checkpoint": hook}), run=str(run))
        trainer.initialize()
        trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_latest.pth"))
        assert os.path.exists(os.path.join(trainer.output_folder, "checkpoint_latest.pth")) is bool(run)


# --- settings in the body of a class ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["{}", "default_{}"])
def test_settings_in_the_body_of_a_class_count(make, spelled):
    settings = {
        "num_epochs": np.int64(2), "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 1, "save_every": 7,
        "initial_lr": 5e-4, "weight_decay": 0.0, "oversample_foreground_percent": 0.5, "disable_checkpointing": True,
    }  # fmt: skip
    for base in (nnUNetTrainerDSVM, nnUNetTrainerVMUNet):
        body = {spelled.format(name): value for name, value in settings.items()}
        trainer = make(type("Mine", (base,), body), run=base.__name__)
        assert {name: getattr(trainer, name) for name in settings} == settings


def test_the_nearest_class_decides(make):
    in_a_body = type("Mine", (nnUNetTrainerDSVM, EPOCHS_250), {"num_epochs": 2})
    behind = type("Mine", (nnUNetTrainerDSVM, type("Theirs", (nnUNetTrainer,), {"num_epochs": 4})), {})
    length_in_front = type("Mine", (variants.nnUNetTrainerDSVM_5epochs, EPOCHS_250), {})
    in_front = type("Mine", (EPOCHS_250, variants.nnUNetTrainerDSVM_5epochs), {})
    over_a_variant = type("Mine", (EPOCHS_250, nnUNetTrainerDSVM), {"num_epochs": 2})
    from_a_mixin = type("Mine", (type("Trial", (), {"num_epochs": 3}), EPOCHS_250, nnUNetTrainerDSVM), {})
    below_an_init = type("Mine", (Thousand, over_a_variant), {})
    silent = type("Mine", (nnUNetTrainerDSVM, EPOCHS_250), {"print_to_log_file": lambda *a, **k: None})
    mixed = [in_a_body, behind, length_in_front, in_front, over_a_variant, from_a_mixin, below_an_init, silent]
    assert [make(one, run=str(i)).num_epochs for i, one in enumerate(mixed)] == [2, 4, 5, 250, 2, 3, 1000, 250]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"num_epochs": 0}, "Mine.num_epochs is 0, but must be a whole number of at least 1"),
        ({"default_num_epochs": 2.5}, "Mine.default_num_epochs is 2.5"),
        ({"num_iterations_per_epoch": "10"}, "Mine.num_iterations_per_epoch is '10'"),
        ({"initial_lr": -1}, "Mine.initial_lr is -1, but must be a number of at least 0"),
        ({"default_deep_supervision": "no"}, "must be True or False"),
        ({"grad_scaler": None}, "Mine.grad_scaler = None has no effect.*Assign it in an __init__"),
        ({"batch_size": 4}, "Mine.batch_size = 4 has no effect.*copy of the plans"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_written(make, tmp_path, body, message):
    with pytest.raises(ValueError, match=message):
        make(type("Mine", (nnUNetTrainerDSVM,), body))
    assert not (tmp_path / "a").exists()
