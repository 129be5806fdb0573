"""What `--c` finds: an earlier training's files, damaged ones, other settings, a folder that was closed meanwhile."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.short_trainers import ShortDSVM, ShortVMUNet, checkpoint_of
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.errors import UserError, UserValueError
from nnunetv2_dsvm.training.guards import surroundings

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
            surroundings.check_equal_shares(configuration)
    else:
        surroundings.check_equal_shares(configuration)


# --- what --c says ----------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(make, monkeypatch):
    """A training of five epochs with a checkpoint after every second one, interrupted in the fourth; its folder."""
    monkeypatch.setattr(ShortVMUNet, "default_num_epochs", 5)
    monkeypatch.setattr(ShortVMUNet, "on_train_epoch_start", interrupted_in(3))
    trainer = make(ShortVMUNet)
    trainer.save_every = 2
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    monkeypatch.undo()
    folder = Path(trainer.output_folder)
    Path(trainer.log_file).rename(folder / "training_log_2001_1_1_01_01_01.txt")  # the next one may be of this second
    return folder


def interrupted_in(epoch):
    def on_train_epoch_start(trainer):
        super(ShortVMUNet, trainer).on_train_epoch_start()
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt

    return on_train_epoch_start


def said_by(make, folder, checkpoint, epochs=5):
    """What the log of a continued training says of that, before its first epoch."""
    trainer = make(ShortVMUNet, continued=True)
    trainer.num_epochs, trainer.save_every = epochs, 2
    if checkpoint is not None:
        trainer.load_checkpoint(str(folder / checkpoint))
    trainer.on_train_start()
    lines = Path(trainer.log_file).read_text().splitlines()
    return [line.rstrip() for line in lines if "Continues from" in line or "--c found" in line][-1]


def test_a_continued_training_says_from_where_and_what_is_lost(interrupted, make):
    best = interrupted / "checkpoint_best.pth"
    best.unlink()
    line = said_by(make, interrupted, "checkpoint_latest.pth")
    assert (
        "Continues from checkpoint_latest.pth, written after epoch 1, with epoch 2 of 0 to 4; the interrupted training "
        "had begun epoch 3: epochs 2 to 3 of it are lost and trained again (checkpoint_latest.pth is written every "
        "2 epochs"
    ) in line and "later" not in line
    line = said_by(make, interrupted, "checkpoint_latest.pth", epochs=2)
    assert line.endswith("Continues from checkpoint_latest.pth: all 2 epochs are trained, and none is lost")

    later = torch.load(interrupted / "checkpoint_latest.pth", weights_only=False)
    later["current_epoch"] = 3
    torch.save(later, best)
    line = said_by(make, interrupted, "checkpoint_latest.pth")
    assert "checkpoint_best.pth was written later, after epoch 2: to go on from there instead, stop, move" in line
    assert not any(name.startswith("earlier") for name in (path.name for path in interrupted.iterdir()))


def test_the_latest_checkpoint_is_written_as_often_as_the_environment_says(make, monkeypatch, no_pictures):
    monkeypatch.setattr(ShortVMUNet, "default_num_epochs", 3)
    for value, expected in (("", 2), ("1", 1), ("7", 2)):
        monkeypatch.setenv("NNUNETV2_DSVM_SAVE_EVERY", value)
        trainer = make(ShortVMUNet, run=f"every_{value}")
        trainer.save_every = 2
        trainer.initialize()
        trainer.on_train_start()
        assert trainer.save_every == expected
    monkeypatch.setenv("NNUNETV2_DSVM_SAVE_EVERY", "often")
    with pytest.raises(UserValueError, match="NNUNETV2_DSVM_SAVE_EVERY must be an integer from 1 on, got 'often'"):
        trainer.on_train_start()


def test_a_continued_training_without_a_checkpoint_or_a_log_says_so(interrupted, make):
    for path in interrupted.glob("training_log_*"):
        path.unlink()
    line = said_by(make, interrupted, "checkpoint_latest.pth")
    assert "epoch 2 of 0 to 4; what was trained after it, if anything, is lost and trained again" in line
    for path in interrupted.glob("*"):
        path.unlink()
    line = said_by(make, interrupted, None)
    assert line.endswith(f"--c found no checkpoint in {interrupted}: a new training starts with epoch 0.")


@pytest.mark.parametrize(
    ("there", "advice"),
    [
        ((), "start the training again, without --c: it has written no checkpoint to continue from"),
        (("latest", "best"), "continue with --c from checkpoint_latest.pth"),
        (("best",), "continue with --c from checkpoint_best.pth"),
        (("final", "best"), "repeat the final validation with --val: the training itself is finished"),
    ],
)
def test_a_closed_folder_advises_what_its_checkpoints_allow(tmp_path, there, advice):
    for name in there:
        (tmp_path / f"checkpoint_{name}.pth").touch()
    (tmp_path / "earlier_1_checkpoint_final.pth").touch()
    with pytest.raises(UserError, match=f"No space left.*{advice}$"), surroundings.explaining_unwritable(str(tmp_path)):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), surroundings.explaining_unwritable(str(tmp_path)):
        raise FileNotFoundError(2, "No such file", "/elsewhere/image.b2nd")


@pytest.fixture
def full_disk(monkeypatch):
    """full_disk() -> from now on the probe of the results folder finds no room."""
    return lambda: monkeypatch.setattr(surroundings.os, "urandom", raising(OSError(28, "No space left on device")))


def raising(error):
    def function(*arguments):
        raise error

    return function


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("Unable to determine ImageIO reader")],
    ids=["write", "ITK, which wrote nothing without a word"],
)  # fmt: skip
def test_a_full_disk_in_the_final_validation_advises_to_repeat_it(make, monkeypatch, full_disk, error):
    trainer = make(ShortVMUNet)
    (Path(trainer.output_folder) / "checkpoint_final.pth").touch()
    trainer.initialize()
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", raising(error))
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="^Unable to determine"):  # while there is room
            trainer.perform_actual_validation()
        full_disk()
    with pytest.raises(UserError, match="No space left.*make room, and repeat the final validation with --val"):
        trainer.perform_actual_validation()


def test_a_full_disk_is_found_before_nnunet_empties_the_plans_of_all_folds(make, full_disk):
    full_disk()
    with pytest.raises(UserError, match="cannot be written: No space left.*Nothing was trained.*make room"):
        make(ShortVMUNet)
