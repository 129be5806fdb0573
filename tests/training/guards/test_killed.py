"""A training that is killed (SIGKILL) again and again, at the worst moments, and continued with --c each time."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.label_maps import label_maps
from helpers.places import HELPERS
from helpers.short_trainers import assert_equal
from helpers.tiny_dataset import PLANS

from nnunetv2_dsvm.files.atomic_write import UNFINISHED

TRAINER = "nnUNetTrainerDSVM_killed"
LATEST, BEST, FINAL = (f"checkpoint_{name}.pth" for name in ("latest", "best", "final"))
LATEST_HALF, FINAL_HALF = f"{UNFINISHED}/{LATEST}", f"{UNFINISHED}/{FINAL}"

# Where the process is killed; the epoch that it started with, and the checkpoints that it leaves.
KILLED = [
    ("step 0 1", 0, set()),
    ("half checkpoint_latest 0", 0, {LATEST_HALF}),
    ("validation 1", 0, {LATEST, BEST}),
    ("step 1 0", 1, {LATEST, BEST}),
    ("half checkpoint_latest 1", 1, {LATEST, LATEST_HALF, BEST}),
    ("unmoved checkpoint_latest 1", 1, {LATEST, LATEST_HALF, BEST}),
    ("half checkpoint_final 2", 1, {LATEST, FINAL_HALF, BEST}),
    ("predicting 1", 2, {FINAL, BEST}),
]


class Trainings:
    """nnUNetv2_train on fold "all" (five cases to validate), process by process (see forked_train.py)."""

    def __init__(self, dataset, folder):
        self.folder, self.dataset = folder, dataset
        environment = {**dataset.environment, "NNUNETV2_DSVM_SEED": "5"}
        environment["nnUNet_extTrainer"] = str(HELPERS / "users_trainers")
        self.forks = subprocess.Popen(
            [sys.executable, HELPERS / "forked_train.py"],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def train(self, run, *options, kill_at="", save_every=1, **environment):
        """Trains into the folder `run`; the process's number and exit status."""
        arguments = ["901", "2d", "all", "-tr", TRAINER, "-p", PLANS, "-device", "cpu", *options]
        environment["nnUNet_results"] = str(self.folder / run)
        environment |= {"KILL_AT": kill_at, "SAVE_EVERY": str(save_every)}
        line = json.dumps([arguments, environment, str(self.folder / f"{run}.log")])
        self.forks.stdin.write(f"{line}\n")
        self.forks.stdin.flush()
        answer = self.forks.stdout.readline()
        assert answer, self.log(run)
        return json.loads(answer)

    def log(self, run):
        return (self.folder / f"{run}.log").read_text()

    def output(self, run):
        return self.folder / run / self.dataset.name / f"{TRAINER}__{PLANS}__2d" / "fold_all"

    def losses(self, run):
        """The lines of losses.jsonl: epoch, step, loss."""
        return [json.loads(line) for line in (self.output(run) / "losses.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trainings(tiny_dataset, tmp_path_factory):
    """With one uninterrupted training, "straight"."""
    trainings = Trainings(tiny_dataset, tmp_path_factory.mktemp("killed"))
    try:
        assert trainings.train("straight")[1] == 0, trainings.log("straight")[-4000:]
        steps = [line[:2] for line in trainings.losses("straight")]
        assert steps == [[epoch, step] for epoch in range(3) for step in range(2)]
        yield trainings
    finally:
        trainings.forks.kill()
        trainings.forks.communicate()


def checkpoints_in(folder):
    """Their names, and those in the folders of unfinished files."""
    finished = {path.name for path in folder.glob("checkpoint*")}
    return finished | {f"{UNFINISHED}/{path.name}" for path in folder.glob(f"{UNFINISHED}*/*")}


def processes_left(session):
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def all_end(session, patience_s):
    """Whether all processes of a training end by themselves; they are killed where they do not."""
    deadline = time.monotonic() + patience_s
    while processes_left(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = processes_left(session)
    if left:
        os.killpg(session, signal.SIGKILL)
    return not left


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_as_an_uninterrupted_one(trainings):
    straight, killed = trainings.output("straight"), trainings.output("killed")
    expected = trainings.losses("straight")
    done = 0
    for number, (point, first_epoch, left) in enumerate(KILLED):
        process, status = trainings.train("killed", *(["--c"] if number else []), kill_at=point)
        assert status == -signal.SIGKILL, (point, trainings.log("killed")[-4000:])
        assert checkpoints_in(killed) == left, point
        losses = trainings.losses("killed")[done:]
        done += len(losses)
        start = 2 * first_epoch
        assert losses == expected[start : start + len(losses)] and losses, point
    assert all_end(process, 30), "what wrote the predictions outlives the killed training"
    assert len(label_maps(killed / "validation")) < 5

    assert trainings.train("killed", "--c")[1] == 0, trainings.log("killed")[-4000:]
    assert len(trainings.losses("killed")) == done
    names = [{path.name for path in run.iterdir() if path.suffix != ".txt"} for run in (straight, killed)]
    assert names[0] == names[1] and not any(name.startswith(UNFINISHED) for name in names[1])
    one, other = (torch.load(run / FINAL, weights_only=False) for run in (straight, killed))
    for key in ("network_weights", "optimizer_state", "nnunetv2_dsvm", "current_epoch", "_best_ema"):
        assert_equal(one[key], other[key])
    for key in set(one["logging"]) - {"epoch_start_timestamps", "epoch_end_timestamps"}:
        np.testing.assert_array_equal(one["logging"][key], other["logging"][key], err_msg=key)
    maps = label_maps(straight / "validation"), label_maps(killed / "validation")
    assert len(maps[0]) == 5 and list(maps[0]) == list(maps[1])
    for name, labels in maps[0].items():
        np.testing.assert_array_equal(labels, maps[1][name], err_msg=name)
    dice = [json.loads((run / "validation" / "summary.json").read_text())["mean"] for run in (straight, killed)]
    assert dice[0] == dice[1]


@pytest.mark.slow
def test_a_training_killed_before_its_first_latest_checkpoint_continues_from_the_best(trainings):
    """As with nnU-Net's own 50 epochs between checkpoints."""
    assert trainings.train("rare", kill_at="step 2 0", save_every=50)[1] == -signal.SIGKILL
    assert [path.name for path in trainings.output("rare").glob("checkpoint*")] == [BEST]
    epoch = torch.load(trainings.output("rare") / BEST, weights_only=False)["current_epoch"]
    done = len(trainings.losses("rare"))
    assert trainings.train("rare", "--c", kill_at="unmoved checkpoint_final 2", save_every=50)[1] == -signal.SIGKILL
    assert trainings.losses("rare")[done:] == trainings.losses("straight")[2 * epoch :] and 0 < epoch < 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)],
    ids=["KILL", "TERM", "USR1"],
)
def test_a_killed_training_leaves_no_loading_processes(trainings, number, expected):
    process, status = trainings.train(
        f"loading_{number}", kill_at="step 0 1", nnUNet_n_proc_DA="2", KILL_WITH=str(int(number))
    )
    assert status == expected, trainings.log(f"loading_{number}")[-4000:]
    assert all_end(process, 10), "loading processes outlive the training"


@pytest.mark.slow
def test_a_full_disk_ends_in_one_sentence_without_advice_that_cannot_be_followed(trainings):
    """With loading processes, whose end must not be reported behind it."""
    process, status = trainings.train("full", nnUNet_n_proc_DA="1", LARGEST_FILE="100000", save_every=50)
    log = trainings.log("full")
    last = log.strip().splitlines()[-1]
    assert status == 1 and "Traceback" not in log and log.count("could not be written") == 1
    assert last.startswith("nnUNetv2_train: The checkpoint ") and f"{BEST} could not be written" in last
    assert last.endswith("start the training again, without --c: it has written no checkpoint to continue from")
    assert all_end(process, 10)
