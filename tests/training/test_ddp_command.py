"""`nnUNetv2_train -num_gpus 2`, by nnU-Net's own code on two CPU ranks: a killed rank, and other numbers of ranks."""

import shutil

import pytest
import torch
from helpers.ddp_command import KILL_RANK_1_AFTER, run_ddp_on_cpu
from helpers.short_trainers import without_pictures
from helpers.tiny_dataset import PLANS
from nnunetv2.run import run_training
from torch.multiprocessing.spawn import ProcessExitedException

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")


@pytest.fixture
def train(tiny_dataset, tmp_path, monkeypatch):
    """train(ranks, folder, continued=False) -> the folder of fold 0."""
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "command_trainer.py").write_text("from helpers.ddp_command import CommandTrainer\n")
    for name, value in tiny_dataset.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "1")
    monkeypatch.setattr(run_training, "run_ddp", run_ddp_on_cpu)

    def run(ranks, folder, continued=False):
        monkeypatch.setenv("nnUNet_results", str(tmp_path / folder))
        monkeypatch.delenv("MASTER_PORT", raising=False)
        options = {"plans_identifier": PLANS, "num_gpus": ranks, "continue_training": continued}
        with without_pictures():
            run_training.run_training("901", "2d", 0, "CommandTrainer", **options)  # device: cuda, as DDP asks for

    return run


def _checkpoint(folder, name):
    return torch.load(next(folder.rglob(f"checkpoint_{name}.pth")), weights_only=False)


@pytest.mark.slow
def test_a_killed_rank_ends_the_other_and_any_number_of_ranks_continues(train, tmp_path, monkeypatch):
    monkeypatch.setenv(KILL_RANK_1_AFTER, "3")  # in the second epoch of two steps
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        train(2, "two")
    monkeypatch.delenv(KILL_RANK_1_AFTER)
    left = _checkpoint(tmp_path / "two", "latest")
    assert left["current_epoch"] == 1 and left["nnunetv2_dsvm"]["projections"]
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("checkpoint_final.pth"))
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    for ranks, folder in ((2, "two"), (1, "one")):
        train(ranks, folder, continued=True)
        final = _checkpoint(tmp_path / folder, "final")
        losses = final["logging"]["train_losses"]
        assert final["current_epoch"] == len(losses) == 3 and losses[0] == left["logging"]["train_losses"][0]


@pytest.mark.slow
def test_two_ranks_continue_what_one_process_began(train, tmp_path, monkeypatch):
    from helpers import ddp_command

    monkeypatch.setattr(ddp_command.CommandTrainer, "cut_off_at", 1)
    with pytest.raises(KeyboardInterrupt):
        train(1, "one")
    assert _checkpoint(tmp_path / "one", "latest")["current_epoch"] == 1
    train(2, "one", continued=True)
    assert len(_checkpoint(tmp_path / "one", "final")["logging"]["train_losses"]) == 3
