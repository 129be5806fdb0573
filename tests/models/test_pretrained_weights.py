"""nnU-Net's -pretrained_weights: trainings that start from the weights of another one of ours."""

import json

import pytest
import torch
from helpers.short_trainers import (
    ShortDSVM,
    ShortDSVM_deepSupervision,
    ShortNnUNet,
    ShortVMUNet,
    ShortVMUNet_deepSupervision,
)
from helpers.tiny_dataset import NETWORK
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture import checkpoints
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures", "one_epoch")
FIVE_LABELS = {"labels": {"background": 0, "one": 1, "two": 2, "three": 3, "four": 4}}


@pytest.fixture
def weights(make, tmp_path):
    """weights(Trainer, **as in make): a checkpoint of a training with five labels, where the reader has three."""

    def write(trainer_class, **changes):
        writer = make(trainer_class, run="writer", **{"labels": FIVE_LABELS, **changes})
        writer.initialize()
        writer.save_checkpoint(str(tmp_path / "weights.pth"))
        return tmp_path / "weights.pth"

    return write


@pytest.fixture
def started_with(monkeypatch):
    """The weights that the next training starts with, once it has."""
    seen = {}

    def on_train_start(trainer, original=nnUNetTrainerVMUNet.on_train_start):
        original(trainer)
        seen.update({name: weight.clone() for name, weight in trainer.network.state_dict().items()})

    monkeypatch.setattr(nnUNetTrainerVMUNet, "on_train_start", on_train_start)
    return seen


def assert_all_but_the_heads_are(weights, filename):
    there = torch.load(filename, weights_only=False)["network_weights"]
    heads = {name for name in weights if ".seg_layers." in name}
    assert heads and all(torch.equal(weights[name], there[name]) for name in weights.keys() - heads)
    assert {len(weights[name]) for name in heads} == {3}


@pytest.mark.parametrize(
    ("written_by", "read_by"),
    [
        (ShortVMUNet, ShortDSVM),
        (ShortDSVM, ShortVMUNet),
        (ShortDSVM_deepSupervision, ShortVMUNet),
        (ShortVMUNet, ShortDSVM_deepSupervision),
        (ShortDSVM_deepSupervision, ShortVMUNet_deepSupervision),
    ],
    ids=lambda c: c.__name__.removeprefix("Short"),
)
def test_weights_of_a_training_with_other_labels_start_one(copied_dataset, weights, started_with, written_by, read_by):
    filename = weights(written_by)
    copied_dataset.train_here(read_by.__name__, "-pretrained_weights", filename)
    assert_all_but_the_heads_are(started_with, filename)
    fold = copied_dataset.results / f"{read_by.__name__}__tinyPlans__2d" / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert len(checkpoint["logging"]["train_losses"]) == 1


def test_weights_alone_suffice(copied_dataset, started_with, tmp_path):
    """As somebody converts them from another framework: no optimiser, no epochs."""
    torch.save({"network_weights": VMUNet(1, 9, **NETWORK).state_dict()}, tmp_path / "converted.pth")
    copied_dataset.train_here("ShortDSVM", "-pretrained_weights", tmp_path / "converted.pth", "--disable_checkpointing")
    assert_all_but_the_heads_are(started_with, tmp_path / "converted.pth")


def test_converted_weights_start_a_training(copied_dataset, started_with, tmp_path, capsys):
    """VMamba's, of three channels, for one; and then the weights of that training, for another one."""

    def convert(file, output):
        plans = copied_dataset.preprocessed / "tinyPlans.json"
        assert main(["convert-weights", str(file), "-o", str(output), "--plans", str(plans)]) == 0
        return capsys.readouterr().out

    vm_unet = checkpoints.to_official_state_dict(VMUNet(3, 9, **NETWORK).state_dict(), prefix="")
    vmamba = {name: t for name, t in vm_unet.items() if not name.startswith(("layers_up.", "final_"))}
    torch.save({"model": vmamba}, tmp_path / "vmamba.pth")
    assert "3 input channels became 1" in convert(tmp_path / "vmamba.pth", tmp_path / "first.pth")
    copied_dataset.train_here("ShortDSVM", "-pretrained_weights", tmp_path / "first.pth")
    assert_all_but_the_heads_are(started_with, tmp_path / "first.pth")
    name = "layers.1.blocks.0.self_attention.in_proj.weight"
    assert torch.equal(started_with["encoder.stages.1.blocks.0.ss2d.in_proj.weight"], vmamba[name])

    trained = copied_dataset.results / "ShortDSVM__tinyPlans__2d" / "fold_0" / "checkpoint_final.pth"
    convert(trained, tmp_path / "second.pth")
    assert torch.load(tmp_path / "second.pth", weights_only=True)["nnunetv2_dsvm"]["share_of_network"] == 1.0
    started_with.clear()
    copied_dataset.train_here("ShortDSVM_deepSupervision", "-pretrained_weights", tmp_path / "second.pth")
    assert_all_but_the_heads_are(started_with, trained)


def other_size():
    network = {**NETWORK, "dims": [16, 32, 64]}
    return {"architecture": {"network_class_name": f"{VMUNet.__module__}.VMUNet", "arch_kwargs": network}}


@pytest.mark.parametrize(
    ("written_by", "changes", "difference"),
    [
        (ShortNnUNet, None, r"Key encoder\.patch_embedding\S+ is missing in the pretrained model weights"),
        (ShortVMUNet, other_size(), r"key encoder.patch_embedding\S+ is not the same. .*\[16, 1, 4, 4\]"),
        (
            ShortVMUNet,
            {"labels": {"channel_names": {"0": "MR", "1": "noNorm"}}},
            r"key encoder.patch_embedding\S+ is not the same. .*\[8, 2, 4, 4\]",
        ),
    ],
    ids=["nnU-Net's", "another-size", "two-channels"],
)
def test_weights_of_another_network_are_refused_by_nnunet(copied_dataset, weights, written_by, changes, difference):
    if changes is None:
        plans = json.loads((copied_dataset.preprocessed / "nnUNetPlans.json").read_text())
        changes = {"architecture": plans["configurations"]["2d"]["architecture"]}
    filename = weights(written_by, **changes)
    with pytest.raises(AssertionError, match=difference):
        copied_dataset.train_here("ShortDSVM", "-pretrained_weights", filename)
    assert not list(copied_dataset.results.rglob("*.pth"))


def test_weights_that_are_not_finite_are_refused(make, weights):
    filename = weights(ShortVMUNet)
    checkpoint = torch.load(filename, weights_only=False)
    checkpoint["network_weights"]["encoder.patch_embedding.projection.weight"][0, 0, 0, 0] = float("nan")
    torch.save(checkpoint, filename)
    trainer = make(ShortVMUNet)
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(filename))
    with pytest.raises(RuntimeError, match="1 of .* not finite before the first step.*patch_embedding.*damaged"):
        trainer.run_training()
    assert trainer.losses == []
