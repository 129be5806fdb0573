"""Overrides that lose something, or seem to: refused by name, or let through."""

import os
import shutil

import numpy as np
import pytest
import torch
from helpers.mixed_trainers import EPOCHS_250, Scaled, Thousand
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.training import variants
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.layers import recipe
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


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
