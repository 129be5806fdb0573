"""A user's own loss, optimiser, loop and layers in the trainers."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mixed_trainers import OwnHooks, Scaled, Theirs, batch, trains_everything
from helpers.quick_nnunet import threads_for_processes
from helpers.short_trainers import ShortDistilled, ShortDSVM, ShortRun, assert_equal, checkpoint_of
from helpers.unets import unet_architecture
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training import variants
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.layers import distilled, recipe, reliable, vm_unet_network

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


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
