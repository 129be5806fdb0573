"""What the steps run in: locks, children, GPUs, and how far a training is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cross_validations import TINY, asked

from nnunetv2_dsvm.cluster.engines import child, step_run
from nnunetv2_dsvm.cluster.engines.gpus import GpuMemory, visible_gpus
from nnunetv2_dsvm.cluster.engines.local_queue import LocalQueue
from nnunetv2_dsvm.cluster.engines.slurm import minutes_of
from nnunetv2_dsvm.cluster.locks import Held, held, owner_of
from nnunetv2_dsvm.cluster.progress import training_progress, validation_dice
from nnunetv2_dsvm.cluster.run_folder import RunFolder


def test_a_command_that_was_killed_is_said_to_be():
    killed = subprocess.run(["sh", "-c", "kill -9 $$"]).returncode
    assert str(step_run.failure("nnUNetv2_train", killed)).startswith("nnUNetv2_train was killed (SIGKILL)")
    assert str(step_run.failure("nnUNetv2_train", 1)) == "nnUNetv2_train failed"


def test_a_lock_is_its_owners_until_the_owner_ends(tmp_path):
    lock = tmp_path / "below" / "lock"
    hold = f"""
import time
from pathlib import Path

from nnunetv2_dsvm.cluster.locks import held

with held(Path({str(lock)!r}), "it"):
    print(1, flush=True)
    time.sleep(99)
"""
    owner = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    owner.stdout.readline()
    assert owner_of(lock).pid == owner.pid
    said = rf"the fold is in the hands of \w+ on {os.uname().nodename} \(process {owner.pid}, since"
    with pytest.raises(Held, match=said), held(lock, "the fold"):
        pass
    owner.kill()
    owner.wait()
    assert owner_of(lock) is None
    with held(lock, "the fold") as descriptor:  # and of whatever inherits it
        heir = subprocess.Popen(["sleep", "99"], pass_fds=[descriptor])
        os.link(lock, tmp_path / "inherited")
    assert owner_of(tmp_path / "inherited").pid == os.getpid()
    heir.kill()
    heir.wait()
    assert owner_of(tmp_path / "inherited") is None and not lock.exists()


class Waited(Exception):
    """A step waits."""


class Watcher:
    def started(self, step, gpu):
        raise AssertionError(f"{step.name} has begun")

    def waits(self, step, owner):
        raise Waited(step.name, owner.pid)


def test_a_fold_is_locked_where_its_results_lie(copied_dataset, tmp_path):
    """For a call in another folder on the same results too."""
    with copied_dataset.here():
        runs = [RunFolder(tmp_path / name).write_request(asked(folds=("all",), trainers=("A",))) for name in "ab"]
        name = f"train__{TINY}__A__tinyPlans__2d__fold_all"
        with held(runs[0].step_lock(runs[0].steps[name]), "the fold"), pytest.raises(Waited) as waited:
            LocalQueue(runs[1], ["0"], 1, Watcher()).work()
        assert waited.value.args == (name, os.getpid())


LOG = """
2026-01-02 03:04:05.000001: Epoch 3
2026-01-02 03:04:05.000001: Current learning rate: 0.01
2026-01-02 03:04:15.000001: train_loss -0.5
2026-01-02 03:04:15.000001: Pseudo dice [np.float32(0.5), nan, np.float64(7e-1)]
2026-01-02 03:04:15.000001: Epoch time: 10.5 s

2026-01-02 03:04:15.000001: Epoch 4
"""


def test_progress_is_what_nnunet_writes(tmp_path):
    assert training_progress(tmp_path) is None and validation_dice(tmp_path / "validation") is None
    (tmp_path / "training_log_2026_1_2_03_04_04.txt").write_text(LOG)
    progress = training_progress(tmp_path)
    assert (progress.epoch, progress.epochs, progress.seconds_left) == (4, None, None)
    assert progress.pseudo_dice == pytest.approx(0.6) and progress.seconds_per_epoch == 10.5
    (tmp_path / "debug.json").write_text('{"num_epochs": "10"}')
    newer = tmp_path / "training_log_2026_1_2_04_00_00.txt"
    newer.write_text("a training that has not yet begun an epoch")
    os.utime(newer, (2e9, 2e9))
    assert training_progress(tmp_path).seconds_left == 6 * 10.5
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "summary.json").write_text('{"foreground_mean": {"Dice": 0.25}}')
    assert validation_dice(tmp_path / "validation") == 0.25


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("48:00:00", 2880),
        ("00:10:30", 11),
        ("10:30", 11),
        ("2-12", 3600),
        ("1-01:30", 1530),
        ("1-0:0:1", 1441),
    ],
)
def test_times_are_sbatchs(text, minutes):
    assert minutes_of(text) == minutes


def test_gpus_are_those_that_nvidias_tool_names(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: A (UUID: GPU-1)\nGPU 1: B (UUID: GPU-2)" || echo 1$4\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, GPU-2")
    assert visible_gpus() == ["7", "GPU-2"]
    alone, shared = GpuMemory(alone=True), GpuMemory(alone=False)
    log = tmp_path / "log"
    assert (
        child.run(["sleep", "1"], os.environ, log, [], alone) == child.run(["true"], os.environ, log, [], shared) == 0
    )
    assert (alone.peak_mib, shared.peak_mib) == (17.0, None)  # of GPU 7


def test_a_child_and_its_own_children_end_together(tmp_path):
    log = tmp_path / "log"
    process = child.start(["sh", "-c", "trap '' TERM; sleep 99 & echo $!; wait; sleep 99"], os.environ, log)
    while not log.read_text():
        pass
    child.end([process], patience_s=0.5)
    assert process.returncode == -signal.SIGKILL
    grandchild = Path("/proc", log.read_text().strip(), "stat")
    assert not grandchild.exists() or grandchild.read_text().split()[2] == "Z"
