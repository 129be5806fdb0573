"""The variants for a pretrained encoder: frozen for the first epochs, then with a learning rate of its own."""

import os

import pytest
import torch
from helpers.short_trainers import ShortRun, assert_equal, checkpoint_of

from nnunetv2_dsvm.training import variants

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


class Watched(ShortRun):
    """Keeps the network's weights as they are before the first epoch and after each."""

    frozen_encoder_epochs = 2

    def on_train_start(self):
        super().on_train_start()
        self.weights = [self.weights_now()]

    def on_epoch_end(self):
        super().on_epoch_end()
        self.weights.append(self.weights_now())

    def weights_now(self):
        return {name: weight.clone() for name, weight in self.network.state_dict().items()}

    def changed(self, part):
        """Of each epoch, whether any and whether all weights of a part have changed."""
        names = [name for name in self.weights[0] if name.startswith(part)]
        changes = [
            [not torch.equal(before[name], after[name]) for name in names]
            for before, after in zip(self.weights, self.weights[1:], strict=False)
        ]
        return [(any(c), all(c)) for c in changes]


class FrozenDSVM(Watched, variants.nnUNetTrainerDSVM_frozenEncoder):
    pass


class FrozenVMUNet(Watched, variants.nnUNetTrainerVMUNet_frozenEncoder):
    encoder_lr_factor = 0.1


def test_the_encoder_stays_as_it_is_to_the_bit_and_sets_out_afterwards(make):
    trainer = make(FrozenDSVM)
    trainer.run_training()
    assert trainer.changed("encoder.") == [(False, False), (False, False), (True, True)]
    assert all(some for some, _ in trainer.changed("decoder."))
    log = next(name for name in os.listdir(trainer.output_folder) if name.startswith("training_log"))
    with open(os.path.join(trainer.output_folder, log)) as file:
        assert "encoder: frozen for the first 2 epochs, then 1 times the learning rate of the rest" in file.read()
    # nnU-Net's log shows the rate of the rest
    assert all(rate > 0 for rate in checkpoint_of(trainer)["logging"]["lrs"])


@pytest.mark.parametrize("cut_off_at", [1, 2])
def test_a_continued_training_is_an_uninterrupted_one(make, monkeypatch, cut_off_at):
    """Cut off while the encoder is frozen, and where it is to set out."""
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "7")
    straight = make(FrozenVMUNet, run="straight")
    straight.run_training()
    first = make(FrozenVMUNet, run="cut")
    first.cut_off_at = cut_off_at
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    second = make(FrozenVMUNet, run="cut", continued=True)
    second.load_checkpoint(os.path.join(second.output_folder, "checkpoint_latest.pth"))
    second.run_training()
    assert straight.losses == first.losses + second.losses
    expected, got = checkpoint_of(straight), checkpoint_of(second)
    for key in ("network_weights", "optimizer_state"):
        assert_equal(expected[key], got[key])
    assert second.changed("encoder.") == [(False, False)] * (2 - cut_off_at) + [(True, True)]
    rates = [group["lr"] for group in second.optimizer.param_groups]
    assert rates[2] == rates[3] == pytest.approx(0.1 * rates[0])


def test_the_default_optimiser_keeps_its_two_groups(make):
    from helpers.short_trainers import ShortDSVM

    trainer = make(ShortDSVM)
    trainer.initialize()
    assert len(trainer.optimizer.param_groups) == 2


def test_as_many_epochs_as_swin_umamba():
    for trainer in (variants.nnUNetTrainerDSVM_frozenEncoder, variants.nnUNetTrainerVMUNet_frozenEncoder):
        assert (trainer.frozen_encoder_epochs, trainer.encoder_lr_factor) == (10, 1.0)
