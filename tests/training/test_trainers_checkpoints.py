"""What a training leaves when its losses are not finite or a file cannot be written, and what continues it."""

import os

import numpy as np
import pytest
import torch
from helpers.short_trainers import (
    ShortDSVM,
    ShortDSVM_kl,
    ShortDSVM_projection,
    ShortVMUNet,
    assert_equal,
    checkpoint_of,
)
from helpers.tiny_dataset import NETWORK

from nnunetv2_dsvm import VMUNet

pytestmark = pytest.mark.usefixtures("one_thread")


class NaNInTheSecondEpoch(ShortDSVM):
    def train_step(self, batch):
        if self.current_epoch == 1 and len(self.losses) == 3:
            batch["data"][0, 0, 0, 0] = float("nan")
        return super().train_step(batch)


class NaNGradientAtTheEndOfTheSecondEpoch(ShortVMUNet):
    """The loss of the last step is fine, its gradient is not."""

    def train_step(self, batch):
        if self.current_epoch == 1 and len(self.losses) == 3:
            next(self.network.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return super().train_step(batch)


@pytest.mark.parametrize(
    ("trainer_class", "named"),
    [
        (NaNInTheSecondEpoch, r"epoch 1: the training loss became nan \(terms of the last step: segmentation_loss nan"),
        (NaNGradientAtTheEndOfTheSecondEpoch, r"epoch 1: \d+ of \d+ parameters are no longer finite, the first being"),
    ],
    ids=["loss", "gradient"],
)
@pytest.mark.usefixtures("no_pictures")
def test_the_run_stops_and_the_last_good_checkpoint_stays(make, trainer_class, named):
    trainer = make(trainer_class)
    with pytest.raises(RuntimeError, match=named + r".*last good one is .*checkpoint_latest.pth: continue.*--c"):
        trainer.run_training()
    names = sorted(name for name in os.listdir(trainer.output_folder) if "checkpoint" in name)
    assert names == ["checkpoint_best.pth", "checkpoint_latest.pth"]
    for name in names:
        checkpoint = checkpoint_of(trainer, name)
        assert checkpoint["current_epoch"] == 1
        assert all(value.isfinite().all() for value in checkpoint["network_weights"].values())
    with open(trainer.log_file) as file:
        assert "Training stopped in epoch 1" in file.read()


def test_without_a_checkpoint_the_message_says_so(make):
    trainer = make(ShortDSVM)
    trainer.initialize()
    with pytest.raises(RuntimeError, match="There is none before it"):
        trainer.train_step({"data": torch.full((2, 1, 32, 40), float("inf")), "target": torch.zeros(2, 1, 32, 40)})


def test_weights_in_a_checkpoint_are_those_of_a_plain_vm_unet(make):
    trainer = make(ShortDSVM)
    trainer.initialize()
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_final.pth"))
    checkpoint = checkpoint_of(trainer)
    plain = VMUNet(1, 3, **NETWORK)
    plain.load_state_dict(checkpoint["network_weights"], strict=True)
    image = torch.randn(1, 1, 32, 40)
    assert torch.equal(plain.eval()(image), trainer.network.eval()(image))
    assert checkpoint["trainer_name"] == "ShortDSVM"
    own = checkpoint["nnunetv2_dsvm"]
    assert own["projections"].keys() == trainer.distillation.state_dict().keys() and own["version"]
    assert own["settings"]["terms"] == ("projection", "progressive")


@pytest.mark.parametrize(
    ("written_by", "continued_by"),
    [(ShortDSVM, ShortVMUNet), (ShortVMUNet, ShortDSVM), (ShortDSVM_projection, ShortDSVM)],
    ids=["dsvm-by-vmunet", "vmunet-by-dsvm", "projection-by-both"],
)
def test_another_distillation_cannot_be_continued(make, written_by, continued_by):
    writer = make(written_by)
    writer.initialize()
    filename = os.path.join(writer.output_folder, "checkpoint_latest.pth")
    writer.current_epoch = 4
    writer.save_checkpoint(filename)
    reader = make(continued_by)
    reader.initialize()
    before = {name: value.clone() for name, value in reader.network.state_dict().items()}
    with pytest.raises(RuntimeError, match=f"{written_by.__name__}.*{continued_by.__name__}.*-pretrained_weights"):
        reader.load_checkpoint(filename)
    assert reader.current_epoch == 0
    assert_equal(before, dict(reader.network.state_dict()))


def test_other_settings_of_the_distillation_are_logged(make):
    writer = make(ShortDSVM)
    writer.initialize()
    filename = os.path.join(writer.output_folder, "checkpoint_latest.pth")
    writer.save_checkpoint(filename)
    reader = make(ShortDSVM_kl)
    reader.load_checkpoint(filename)
    with open(reader.log_file) as file:
        assert "'distance': 'kl'" in file.read()


@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_without_our_log_keys_still_continues(make):
    writer = make(ShortDSVM)
    writer.num_epochs = 1
    writer.run_training()
    filename = os.path.join(writer.output_folder, "checkpoint_final.pth")
    checkpoint = torch.load(filename, weights_only=False)
    del checkpoint["logging"]["L_proj"]
    torch.save(checkpoint, filename)
    reader = make(ShortDSVM)
    reader.load_checkpoint(filename)
    reader.run_training()
    values = checkpoint_of(reader)["logging"]["L_proj"]
    assert np.isnan(values[0]) and np.isfinite(values[1:]).all() and len(values) == 3


def test_a_failed_save_leaves_the_old_checkpoint(make, monkeypatch):
    trainer = make(ShortDSVM)
    trainer.initialize()
    filename = os.path.join(trainer.output_folder, "checkpoint_latest.pth")
    trainer.save_checkpoint(filename)
    with open(filename, "rb") as file:
        before = file.read()

    def no_space_left(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", no_space_left)
    with pytest.raises(OSError, match="no space left"):
        trainer.save_checkpoint(filename)
    with open(filename, "rb") as file:
        assert file.read() == before
    assert [name for name in os.listdir(trainer.output_folder) if "checkpoint" in name] == ["checkpoint_latest.pth"]


@pytest.mark.usefixtures("no_pictures")
def test_disabled_checkpointing_writes_none(make):
    trainer = make(ShortDSVM)
    trainer.disable_checkpointing = True
    trainer.num_epochs = 1
    trainer.run_training()
    assert not [name for name in os.listdir(trainer.output_folder) if "checkpoint" in name]


def test_weights_of_a_vm_unet_start_a_dsvm_training(make):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    writer = make(ShortVMUNet)
    writer.initialize()
    filename = os.path.join(writer.output_folder, "checkpoint_final.pth")
    writer.save_checkpoint(filename)
    reader = make(ShortDSVM)
    reader.initialize()
    load_pretrained_weights(reader.network, filename)
    for name, value in reader.network.state_dict().items():
        if ".seg_layers." not in name:
            assert torch.equal(value, writer.network.state_dict()[name])
