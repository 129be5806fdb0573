"""The queue of this machine's trainings: it ends in time, and asks whether what it could begin is still to be begun."""

import logging
import math
import sys
import time
from dataclasses import replace

import pytest

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.cluster.api import cross_validate
from nnunetv2_dsvm.cluster.engines.local_queue import LocalQueue
from nnunetv2_dsvm.cluster.engines.slurm import SlurmOptions
from nnunetv2_dsvm.cluster.request import Request
from nnunetv2_dsvm.cluster.run_folder import RunFolder
from nnunetv2_dsvm.cluster.steps import steps_of
from nnunetv2_dsvm.errors import UserError

REQUEST = Request(("Dataset901_Tiny",), ("tinyPlans",), ("2d",), ("A", "B"), ("0", "1"), device="cpu")
TRAININGS = [replace(step, after=()) for step in steps_of(REQUEST) if step.kind == "train"]  # the data are there


class Sleeping(RunFolder):
    """Trainings that would take minutes."""

    steps = {step.name: step for step in TRAININGS}

    def command(self, step):
        return [sys.executable, "-c", "import time; time.sleep(600)"]


class Told:
    def __init__(self):
        self.begun, self.ends = [], []

    def started(self, step, gpu):
        self.begun.append(step.name)

    def waits(self, step, owner):
        raise AssertionError(f"nobody has {step.name}")

    def ended(self, step, status):
        self.ends.append(step.name)

    def running(self):
        pass


def test_queue_ends_in_time_and_begins_nothing_that_does_not_fit(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    told, asked = Told(), []

    def fits(step):
        asked.append(step.name)
        return step.fold == "1"

    run = Sleeping(Sleeping(tmp_path / "run").write_request(REQUEST).path)
    begun = time.monotonic()
    LocalQueue(run, ["0", "1"], 1, told, until=begun + 1.5, fits=fits).work()
    assert 1.5 <= time.monotonic() - begun < 20
    assert told.begun == [step.name for step in TRAININGS if step.fold == "1"] and not told.ends
    assert asked == [step.name for step in TRAININGS]  # once each: the time that is left only gets shorter


@pytest.mark.parametrize("minutes", [0, -1, math.inf, math.nan])
def test_minutes_of_a_call_are_a_number_above_0(minutes):
    with pytest.raises(UserError, match="the minutes of a call are a number above 0"):
        cross_validate(["901"], ["A"], minutes=minutes)


def test_minutes_of_a_call_are_not_those_of_a_job():
    with pytest.raises(UserError, match="the 5 minutes of a call are for this machine"):
        cross_validate([901], ["A"], minutes=5, slurm_options=SlurmOptions())


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
