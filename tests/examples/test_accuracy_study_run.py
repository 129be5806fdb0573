"""The accuracy study: what a call of it begins, refuses, shares and collects, and one on the tiny dataset."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from helpers.places import STUDY
from helpers.quick_nnunet import threads_for_processes
from helpers.study_rows import outcome_of
from helpers.tiny_dataset import PLANS
from nnunetv2.run.run_training import run_training

from nnunetv2_dsvm.errors import UserError

pytestmark = pytest.mark.usefixtures("study_on_path")
TINY = "Dataset901_Tiny"
TRAINERS = """
import os

from accuracy_study_trainers import nnUNetTrainerDSVM_study
from helpers.quick_nnunet import threads_for_processes

if "INTERRUPTED" not in os.environ:  # in a process of its own
    threads = threads_for_processes()  # processes that import torch take longer than training here
    threads.__enter__()


class nnUNetTrainerDSVM_toy(nnUNetTrainerDSVM_study):
    num_epochs = num_iterations_per_epoch = 2
    num_val_iterations_per_epoch = 1

    def on_epoch_start(self):
        if self.current_epoch == 1 and "INTERRUPTED" in os.environ:
            raise KeyboardInterrupt
        super().on_epoch_start()
"""


@pytest.fixture
def toy(copied_dataset, tmp_path):
    """A plan of one model on two folds and two seeds, of which the results know all but seed 2 of fold 0."""
    import results
    from plan import Plan

    stage = {"name": "toy", "title": "Toy", "datasets": [TINY], "configurations": ["2d"], "folds": [0, 1],
             "seeds": [1, 2], "epochs": 2, "models": ["nnUNetTrainerDSVM_toy"], "against": ["nnUNetTrainerDSVM_toy"],
             "candidates": []}  # fmt: skip
    datasets = {TINY: {"minutes": {"2d": 1}, "batch": {"2d": 2}, "distances": "pixels"}}
    (tmp_path / "plan.json").write_text(
        json.dumps({"plans": PLANS, "copies": {}, "datasets": datasets, "slower": {}, "stages": [stage]})
    )
    (tmp_path / "toy_trainers").mkdir()
    (tmp_path / "toy_trainers" / "toy_trainers.py").write_text(TRAINERS)
    trainings = Plan.read(tmp_path / "plan.json").trainings({})
    done = [t for t in trainings if (t.fold, t.seed) != (0, 2)]
    for t in done:
        cases = [[t.name, f"of_fold_{t.fold}", label, 0.5, 1.0, "", ""] for label in ("one", "two")]
        results.add(tmp_path / "results", [outcome_of(t, cases, dice=0.5)])
    variables = {
        **copied_dataset.environment,
        "nnUNet_extTrainer": str(tmp_path / "toy_trainers"),
        "nnUNet_results": str(copied_dataset.results.parent),
        "PYTHONPATH": os.pathsep.join([str(STUDY / "trainers"), os.environ.get("PYTHONPATH", "")]),
        "NNUNETV2_DSVM_SAVE_EVERY": "1",
        "nnUNet_npp": "0",
        "nnUNet_nps": "0",
    }
    return tmp_path, variables


def test_trainings_that_end_together_are_collected_and_one_without_rows_has_failed(plan, tmp_path, monkeypatch, capsys):
    import results
    from run import Collector
    from study_run import StudyRun

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    run = StudyRun(tmp_path / "study", STUDY / "plan.json", tmp_path / "csv", "cuda")
    for folder in (run.outcomes, run.path / "logs"):
        folder.mkdir(parents=True)
    first, second, third = list(run.steps.values())[:3]
    for step in (first, second):
        outcome = outcome_of(run.trainings[step.name], dice=0.5, dice_mirrored=0.5)
        (run.outcomes / f"{step.name}.json").write_text(json.dumps(outcome))
    run.log(third.name).write_text("begun\nnnUNetv2_train was killed\n")
    collector = Collector(run)
    for step in (second, first):
        collector.ended(step, 0)
    assert results.finished(run.results).keys() == {first.name, second.name} and collector.failed == 0
    collector.ended(third, 0)  # it left no rows
    collector.ended(third, 1)
    assert collector.failed == 2 and "nnUNetv2_train was killed" in capsys.readouterr().out
    assert next(iter(StudyRun(run.path, run.plan_file, run.results, "cuda").steps)) == third.name


def test_a_training_that_lacks_a_score_and_left_no_rows_has_failed_and_is_listed_where_it_is_needed(
    plan, tmp_path, monkeypatch, capsys
):
    import results
    from run import Collector, show_open
    from study_run import StudyRun

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    run = StudyRun(tmp_path / "study", STUDY / "plan.json", tmp_path / "csv", "cuda")
    (run.path / "logs").mkdir(parents=True)
    step = next(step for step in run.steps.values() if run.trainings[step.name].dataset == "Dataset017_PH2")
    results.add(run.results, [outcome_of(run.trainings[step.name], dice_mirrored=0.5)])
    run.log(step.name).write_text("Validation complete\n")
    collector = Collector(run)
    collector.ended(step, 0)
    assert collector.failed == 1 and "ended with status 0" in capsys.readouterr().out
    show_open(StudyRun(run.path, run.plan_file, run.results, "cuda"), 3)
    counts = re.findall(r"(\d+) of +(\d+) trainings", capsys.readouterr().out)
    assert sum(int(new) for new, _ in counts) == len(plan.open({}))  # this one too: told needs its other score


@pytest.mark.parametrize(("status", "validated_again"), [(0, False), (1, True), (75, False), (143, False)])
def test_what_cannot_be_measured_is_validated_again(status, validated_again, tmp_path, monkeypatch):
    import run
    from study_run import StudyRun

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    call = StudyRun(tmp_path / "study", STUDY / "plan.json", tmp_path / "csv", "cuda")
    step = next(iter(call.steps.values()))
    summary = run.model_folder(step.model).validation_folder(step.fold) / "summary.json"
    summary.parent.mkdir(parents=True)
    for path in (summary, summary.parents[1] / "checkpoint_final.pth"):
        path.touch()
    monkeypatch.setattr(StudyRun, "command", lambda *_: [sys.executable, "-c", f"raise SystemExit({status})"])
    run.measure_what_is_trained(call)
    assert summary.is_file() is not validated_again


def test_results_of_another_version_are_refused(tmp_path):
    import results

    (tmp_path / "cases.csv").write_text("training,case,label,Dice,HD95\na,b,c,0.5,1\n")
    with pytest.raises(UserError, match="cases.csv has the columns training, case, label, Dice, HD95, but"):
        results.read(tmp_path, "cases.csv")
    assert results.read(tmp_path, "trainings.csv") == []


def test_results_wait_for_another_call_that_writes(tmp_path):
    import results
    from results import held

    with ThreadPoolExecutor(1) as executor:
        with held(tmp_path / results.LOCK, "the results"):
            adding = executor.submit(results.add, tmp_path, [{name: [] for name in results.COLUMNS}])
            time.sleep(0.2)
            assert not adding.done() and not list(tmp_path.glob("*.csv"))
        adding.result()
    assert {path.name for path in tmp_path.iterdir()} == set(results.COLUMNS)


def test_a_call_says_what_it_cannot_begin(plan, tmp_path, monkeypatch, capsys):
    import run
    from scripts import status_of

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", "--results", str(tmp_path / "csv"), "-device", "cpu", *arguments])
        folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
        with mock.patch.dict(os.environ, folders):
            status = status_of(run.main)
        return status, capsys.readouterr()

    status, said = call("--only", "005-")
    assert status == 1 and said.err.startswith("no training of the plan has '005-' in its name") and not said.out
    status, said = call("--only", "004-2d")
    assert (status, said.err.count("\n"), said.out) == (1, 1, "")
    assert said.err.startswith(f"not prepared in {tmp_path}/preprocessed: Dataset004_Hippocampus; run prepare.py first")
    assert not (tmp_path / "results").exists()
    prepared = tmp_path / "preprocessed" / "Dataset004_Hippocampus"
    prepared.mkdir(parents=True)
    for plans in plan.copies:
        (prepared / f"{plans}.json").write_text("{}")
    monkeypatch.setattr(run, "check_trainers", lambda request: None)  # takes long, and is tested elsewhere
    status, said = call("--only", "004-2d", "--lease", "5.9")
    assert status == 0 and "begins" not in said.out
    left = sum(training.name.startswith("004-2d") for training in plan.trainings({}))
    assert f"{left} trainings are left\n{left} were not begun" in said.out and "the shortest 6 min" in said.out


def test_an_interrupted_script_says_so_without_a_traceback(capsys):
    from scripts import status_of

    assert status_of(mock.Mock(side_effect=KeyboardInterrupt)) == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on\n"


@pytest.mark.parametrize("works", [True, False])
def test_gpus_are_shared_by_a_daemon_that_works_and_is_ended(works, tmp_path, monkeypatch):
    import sharing

    daemon = tmp_path / "bin" / sharing.MPS
    daemon.parent.mkdir()
    daemon.write_text(
        f'#!/bin/sh\n[ -n "$1" ] && echo "$1 ${sharing.PIPE}" >> {tmp_path}/told || cat >> {tmp_path}/told\n'
    )
    daemon.chmod(0o755)
    monkeypatch.setenv("PATH", f"{daemon.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(sharing.PIPE, raising=False)
    monkeypatch.setattr(sharing, "USES_A_GPU", f"raise SystemExit({int(not works)})")
    with sharing.shared_gpus(True):
        assert (sharing.PIPE in os.environ) is works
        pipe = os.environ.get(sharing.PIPE)
    started, quit_ = (tmp_path / "told").read_text().splitlines()
    assert started == f"-d {pipe}" if works else started.startswith("-d /")
    assert quit_ == "quit" and sharing.PIPE not in os.environ
    with sharing.shared_gpus(False):
        assert (tmp_path / "told").read_text().count("-d") == 1


def rows(folder, name):
    with open(folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_call_goes_on_with_an_interrupted_training_and_trains_nothing_that_the_results_know(toy):
    folder, variables = toy
    name = f"901-2d-{PLANS}-nnUNetTrainerDSVM_toy-f0-s2"
    seed_2 = folder / "own" / "nnUNet_results" / "seed_2"
    interrupted = {**variables, "nnUNet_results": str(seed_2), "NNUNETV2_DSVM_SEED": "2", "INTERRUPTED": "1"}
    with mock.patch.dict(os.environ, interrupted), threads_for_processes(), pytest.raises(KeyboardInterrupt):
        run_training("901", "2d", 0, "nnUNetTrainerDSVM_toy", PLANS, device=torch.device("cpu"))
    command = [sys.executable, STUDY / "run.py", "--plan", folder / "plan.json", "--results", folder / "results",
               "-device", "cpu", "--minutes", "10", "--batches", folder / "batches"]  # fmt: skip
    called = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, encoding="utf-8")
    assert called.returncode == 0 and "0 trainings are left" in called.stdout, called.stdout + called.stderr

    log = (seed_2.parent / "study" / "logs" / f"{name}.log").read_text(encoding="utf-8")
    assert "Continues from checkpoint_latest.pth, written after epoch 0" in log
    assert [path.stem for path in (seed_2.parent / "study" / "logs").iterdir()] == [name]
    trainings = {row["training"]: row for row in rows(folder / "results", "trainings.csv")}
    assert len(trainings) == 4
    row = trainings[name]
    validated = [float(dice) for dice in re.findall(r"Mean Validation Dice:\s+([\d.]+)", log)]  # nnU-Net's own
    assert [float(row["dice"]), float(row["dice_mirrored"])] == pytest.approx(validated, abs=1e-4)
    assert (row["epochs"], row["seed"], row["wall_seconds"], row["loaders"]) == ("2", "2", "", "shared")
    (stream,) = (folder / "batches").iterdir()
    assert stream.name.startswith(f"{TINY}-") and stream.name.endswith("-b2-f0-s2")
    assert torch.__version__.startswith(row["torch"]) and row["torch"]
    assert int(row["parameters"]) > 0 and int(row["parameters_of_the_distillation"]) > 0
    cases = [case for case in rows(folder / "results", "cases.csv") if case["training"] == name]
    assert [case["label"] for case in cases] == ["one", "two"]
    assert any(case["Dice"] != case["Dice_mirrored"] for case in cases)
    curve = rows(folder / "results", "curves.csv")
    assert [row["epoch"] for row in curve] == ["0", "1"] and all(float(row["training_loss"]) for row in curve)
    left = [path.name for path in (seed_2.parent / "study" / "outcomes").iterdir()]
    assert not left and not list(seed_2.rglob("checkpoint_*.pth"))
    assert {path.name for path in seed_2.parent.iterdir()} == {"seed_2", "study"}

    (folder / "text.md").write_text("<!-- study: toy -->\n<!-- end of study: toy -->\n")
    table = [sys.executable, STUDY / "tables.py", folder / "text.md", *command[2:6]]
    subprocess.run(table, env={**os.environ, **variables}, check=True)
    seed_2_dice = (0.5 + sum(float(case["Dice"]) for case in cases) / 2) / 2
    dice = f"{(0.5 + seed_2_dice) / 2:.4f} ± {abs(0.5 - seed_2_dice) / 2**0.5:.4f}"
    assert f"| nnUNetTrainerDSVM_toy | 0 1 | 1 2 | 3 | {dice} |" in (folder / "text.md").read_text(encoding="utf-8")
