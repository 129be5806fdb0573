"""What `--c` finds: an earlier training's files, damaged ones, other settings, a folder that was closed meanwhile."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from short_trainers import ShortDSVM, ShortVMUNet, checkpoint_of

from nnunetv2_dsvm.training import surroundings

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures", "one_epoch")


class Pooling(ShortDSVM):
    distillation_projection = "pooling"


class SlowEncoder(ShortDSVM):
    encoder_lr_factor = 0.1


def saved_by(make, trainer_class) -> Path:
    writer = make(trainer_class)
    writer.initialize()
    path = Path(writer.output_folder) / "checkpoint_latest.pth"
    writer.save_checkpoint(str(path))
    return path


def test_a_new_training_sets_an_earlier_ones_checkpoints_aside(make):
    first = make(ShortDSVM)
    first.run_training()
    folder = Path(first.output_folder)
    finished = (folder / "checkpoint_final.pth").read_bytes()

    second = make(ShortDSVM)
    second.default_num_epochs = second.num_epochs = 3
    second.cut_off_at = 2
    with pytest.raises(KeyboardInterrupt):
        second.run_training()
    # nnU-Net's --c takes checkpoint_final.pth before checkpoint_latest.pth: it must be the second training's, or none
    assert not (folder / "checkpoint_final.pth").exists()
    assert (folder / "earlier_1_checkpoint_final.pth").read_bytes() == finished
    assert "earlier_1_checkpoint_final.pth" in Path(second.log_file).read_text()

    third = make(ShortDSVM, continued=True)
    third.num_epochs = 3
    third.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    third.run_training()
    assert len(third.losses) == 2 and checkpoint_of(third)["current_epoch"] == 3  # the one epoch that was left
    make(ShortDSVM).run_training()
    assert {path.name for path in folder.glob("earlier_*_final.pth")} == {
        "earlier_1_checkpoint_final.pth", "earlier_2_checkpoint_final.pth",
    }  # fmt: skip


@pytest.mark.parametrize("count", [16, 4096])
def test_a_checkpoint_with_damaged_weights_is_refused(make, count):
    path = saved_by(make, ShortDSVM)
    weights = torch.load(path, weights_only=False)["network_weights"]
    largest = max(weights.values(), key=torch.numel).numpy().tobytes()
    content = bytearray(path.read_bytes())
    place = content.index(largest[:64])
    content[place : place + count] = b"\1" * count
    path.write_bytes(content)
    reader = make(ShortDSVM)
    with pytest.raises(RuntimeError, match="checkpoint_latest.pth is damaged: the checksum of .* is wrong"):
        reader.load_checkpoint(str(path))
    assert path.read_bytes() == content and reader.current_epoch == 0


@pytest.mark.parametrize(
    ("written_by", "continued_by", "message"),
    [
        (ShortDSVM, Pooling, "projection was 'convolution' and is 'pooling'"),
        (Pooling, ShortVMUNet, "Pooling trained with distillation and ShortVMUNet trains without it"),
        (ShortVMUNet, Pooling, "ShortVMUNet trained without distillation and Pooling trains with it"),
        (ShortDSVM, SlowEncoder, "its optimiser has 2 groups of parameters, this training's 4. encoder_lr_factor"),
        (SlowEncoder, ShortDSVM, "its optimiser has 4 groups of parameters, this training's 2"),
    ],
)
def test_other_settings_that_cannot_be_continued_are_named(make, written_by, continued_by, message):
    path = saved_by(make, written_by)
    reader = make(continued_by)
    reader.initialize()
    before = {name: value.clone() for name, value in reader.network.state_dict().items()}
    with pytest.raises(RuntimeError, match=message):
        reader.load_checkpoint(str(path))
    assert reader.current_epoch == 0
    assert all(torch.equal(before[name], value) for name, value in reader.network.state_dict().items())


def test_a_folder_that_is_closed_in_an_epoch_is_named(make, monkeypatch):
    trainer = make(ShortVMUNet)

    def refused(folder):
        raise OSError(30, "Read-only file system", f"{folder}/progress.png")

    trainer.initialize()
    monkeypatch.setattr(trainer.logger, "plot_progress_png", refused)
    with pytest.raises(RuntimeError, match="can no longer be written: .*Read-only.*progress.png.*continue with --c"):
        trainer.run_training()


@pytest.mark.parametrize(("batch", "batch_dice", "refused"), [(7, True, True), (8, True, False), (7, False, False)])
def test_a_batch_that_several_gpus_cannot_share_is_refused(monkeypatch, batch, batch_dice, refused):
    monkeypatch.setattr(surroundings.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(surroundings.dist, "get_world_size", lambda: 2)
    configuration = SimpleNamespace(batch_size=batch, batch_dice=batch_dice)
    if refused:
        with pytest.raises(RuntimeError, match="A batch of 7 cannot be shared equally by 2 GPUs.*set batch_size to 6"):
            surroundings.refuse_unequal_shares(configuration)
    else:
        surroundings.refuse_unequal_shares(configuration)
