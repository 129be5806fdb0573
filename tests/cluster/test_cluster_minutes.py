"""The queue of a cross-validation that has a limited time."""

import logging
import math
import sys
import time
from dataclasses import replace

import pytest
from helpers.cross_validations import TINY, asked

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.cluster.api import cross_validate
from nnunetv2_dsvm.cluster.engines.local_queue import LocalQueue
from nnunetv2_dsvm.cluster.engines.slurm import SlurmOptions
from nnunetv2_dsvm.cluster.run_folder import RunFolder
from nnunetv2_dsvm.cluster.steps import steps_of
from nnunetv2_dsvm.errors import UserError


class Sleeping(RunFolder):
    """Trainings that would take minutes."""

    def command(self, step):
        return [sys.executable, "-c", "import time; time.sleep(600)"]


class Told:
    def __init__(self):
        self.begun, self.ends = [], []

    def started(self, step, gpu):
        self.begun.append(step.name)

    def ended(self, step, status):
        self.ends.append(step.name)

    def running(self):
        pass


def test_queue_ends_in_time_and_begins_nothing_that_does_not_fit(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    trainings = [step for step in steps_of(asked()) if step.kind == "train"]
    run = Sleeping(tmp_path / "run").write_request(asked())
    run = Sleeping(run.path)
    run.__dict__["steps"] = {step.name: replace(step, after=()) for step in trainings}  # the data are there
    told, asked_for = Told(), []

    def fits(step):
        asked_for.append(step.name)
        return step.fold == "1"

    begun = time.monotonic()
    queue = LocalQueue(run, ["0", "1"], 1, told, until=begun + 1.5, fits=fits)
    queue.work()
    assert 1.5 <= time.monotonic() - begun < 20
    fitting = [step.name for step in trainings if step.fold == "1"]
    assert told.begun == fitting and not told.ends
    assert asked_for == [step.name for step in trainings]  # once each: the time that is left only gets shorter


@pytest.mark.parametrize("minutes", [0, -1, math.inf, math.nan])
def test_minutes_of_a_call_are_a_number_above_0(minutes):
    with pytest.raises(UserError, match="the minutes of a call are a number above 0"):
        cross_validate([TINY], ["A"], minutes=minutes)


def test_minutes_of_a_call_are_not_those_of_a_job():
    with pytest.raises(UserError, match="the 5 minutes of a call are for this machine"):
        cross_validate([TINY], ["A"], minutes=5, slurm_options=SlurmOptions())


def test_a_call_says_that_its_time_is_over(copied_dataset, caplog):
    """It begins nothing then."""
    fold = copied_dataset.results / "A__tinyPlans__2d" / "fold_all"
    (fold / "validation").mkdir(parents=True)
    for file in ("checkpoint_final.pth", "validation/summary.json"):
        (fold / file).touch()
    with copied_dataset.here(), caplog.at_level(logging.INFO, "nnunetv2_dsvm.cluster"):
        steps = cross_validate([901], ["A"], plans=["tinyPlans"], folds=["all"], device="cpu", minutes=1e-6)
    assert [(step.kind, step.state) for step in steps] == [
        ("prepare", "done"), ("train", "done"), ("evaluate", "queued"), ("report", "queued"),
    ]  # fmt: skip
    assert [record.getMessage() for record in caplog.records] == [
        "the 1e-06 minutes are over: what ran was interrupted; the same call goes on with it"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-d", "901", "-tr", "A", "--minutes", "5", "--cluster", "slurm"], "--minutes belong to a call without"),
        (["-d", "901", "-tr", "A", "--gpus-per-job", "2"], "--gpus-per-job belong to --cluster slurm"),
        (["--status", "-tr", "A", "--minutes", "5"], "-tr, --minutes belong to a call that trains"),
    ],
    ids=["slurm", "here", "status"],
)
def test_options_that_would_be_ignored_are_named_as_they_are_typed(options, message, capsys):
    assert main(["cross_validate", *options]) == 1
    assert message in capsys.readouterr().err
