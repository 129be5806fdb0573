"""What predicts and is shown where a class is in no case of the folds and nowhere predicted: nnU-Net's mean is NaN."""

import json
import math
import shutil
import signal
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from helpers.cross_validations import TINY, asked

from nnunetv2_dsvm.cluster.commands import commands_of
from nnunetv2_dsvm.cluster.engines import child
from nnunetv2_dsvm.cluster.engines.step_run import DONE, FAILED, run_step
from nnunetv2_dsvm.cluster.run_folder import RunFolder
from nnunetv2_dsvm.cluster.status import status_of

BEST, PREDICT = f"best__{TINY}", f"predict__{TINY}"
UNDEFINED = {"1": 0.8, "2": math.nan}


@pytest.fixture
def here(copied_dataset):
    """A data set whose cases have nothing of class 2; each fold validates one."""
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (copied_dataset.raw / "labelsTr").iterdir())
    splits = [{"train": [other for other in cases if other != case], "val": [case]} for case in cases]
    (copied_dataset.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for folder in (copied_dataset.raw / "labelsTr", copied_dataset.preprocessed / "gt_segmentations"):
        for file in folder.glob("*.nii.gz"):
            sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(file)) == 1, sitk.sitkUInt8), str(file))
    with copied_dataset.here():
        yield copied_dataset


@pytest.fixture
def run_here():
    """run_step in this process, whose signals it takes."""
    before = {number: signal.getsignal(number) for number in child.STOPS}
    yield run_step
    for number, handler in before.items():
        signal.signal(number, handler)


def finish(here, fold: int, dice: dict[str, float], trainer: str = "A") -> Path:
    """A training whose predictions are the truth, with this Dice in its summary; the model's folder."""
    model = here.results / f"{trainer}__tinyPlans__2d"
    validation = model / f"fold_{fold}" / "validation"
    validation.mkdir(parents=True)
    (validation.parent / "checkpoint_final.pth").touch()
    shutil.copy(here.preprocessed / "dataset.json", model)
    shutil.copy(here.preprocessed / "tinyPlans.json", model / "plans.json")
    shutil.copy(sorted((here.raw / "labelsTr").iterdir())[fold], validation)
    means = {label: {"Dice": value} for label, value in dice.items()}
    content = {"mean": means, "foreground_mean": {"Dice": sum(dice.values()) / len(dice)}, "metric_per_case": []}
    (validation / "summary.json").write_text(json.dumps(content))
    return model


def test_one_model_predicts_though_nnunet_cannot_compare_it(here, tmp_path):
    """By nnU-Net's commands; with its command for the choice the step would fail."""
    for fold in (0, 1):
        model = finish(here, fold, UNDEFINED)
    run = RunFolder(tmp_path / "run").write_request(asked(trainers=("A",), predicted=(TINY,)))
    asked_for = ["901", "-c", "2d", "-tr", "A", "-p", "tinyPlans", "-f", 0, 1]
    with pytest.raises(IndexError):
        here.command_here("nnUNetv2_find_best_configuration", *asked_for)
    with commands_of(run, run.steps[BEST]) as commands:
        for command in commands:
            here.command_here(*command)
    metrics = json.loads((model / "crossval_results_folds_0_1" / "summary.json").read_text())
    assert metrics["mean"]["1"]["Dice"] == 1 and math.isnan(metrics["foreground_mean"]["Dice"])
    assert len(metrics["metric_per_case"]) == 2
    with commands_of(run, run.steps[PREDICT]) as (predict, postprocess):
        Path(postprocess[postprocess.index("-o") + 1], "case_005.nii.gz").touch()
    assert " ".join(predict).endswith("-tr A -p tinyPlans -c 2d -f 0 1 -device cpu")
    for option in ("-pp_pkl_file", "-plans_json"):
        assert Path(postprocess[postprocess.index(option) + 1]).stat().st_size > 0


def test_of_several_models_the_step_says_why_none_is_best(here, tmp_path, run_here):
    for fold in (0, 1):
        finish(here, fold, UNDEFINED)
        finish(here, fold, {"1": 0.8, "2": 0.0}, "B")
    run = RunFolder(tmp_path / "run").write_request(asked())
    assert run_here(run, BEST) == FAILED
    said = "nnU-Net cannot compare the models: the Dice of A__tinyPlans__2d is undefined in the folds 0, 1, of whose "
    assert run.state(BEST).reason.startswith(f"{said}cases none has class 2, nor was it predicted. Take folds ")


@pytest.mark.parametrize(
    ("dice", "trainers"),
    [([UNDEFINED, {"1": 0.8, "2": 0.5}], ("A",)), ([UNDEFINED] * 2, ("B", "A"))],
    ids=["in one fold", "of a later model"],
)
def test_what_nnunet_can_choose_it_chooses(dice, trainers, here, tmp_path):
    for fold in (0, 1):
        finish(here, fold, dice[fold])
        finish(here, fold, {"1": 0.8, "2": 0.0}, "B")
    run = RunFolder(tmp_path / "run").write_request(asked(trainers=trainers))
    information = {"postprocessing_file": str(tmp_path / "x"), "some_plans_file": str(tmp_path / "x")}
    (tmp_path / "x").touch()
    (here.results / "inference_information.json").write_text(json.dumps({"best_model_or_ensemble": information}))
    with commands_of(run, run.steps[BEST]) as (command,):
        assert command[:2] == ["nnUNetv2_find_best_configuration", "901"]


def test_a_dice_that_is_undefined_is_said_to_be(here, tmp_path):
    finish(here, 0, UNDEFINED)
    finish(here, 1, {"1": 0.8, "2": 0.5})
    first, second = status_of(RunFolder(tmp_path / "run").write_request(asked(trainers=("A",))), {})[1:3]
    said = "Dice undefined: class 2 is neither in its cases nor predicted"
    assert (first.state, first.in_short(), second.in_short()) == ("done", said, "Dice 0.6500")
    assert [(of["dice"], of["reason"]) for of in (first.as_json(), second.as_json())] == [(None, said), (0.65, "")]


def test_a_step_of_this_package_needs_no_console_script(here, tmp_path, run_here, monkeypatch):
    """As where it is on PYTHONPATH and not installed: a Python without scripts beside it, and none on PATH."""
    for fold in (0, 1):
        model = finish(here, fold, UNDEFINED)
    run = RunFolder(tmp_path / "run").write_request(asked(trainers=("A",)))
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(python.parent))
    name = f"evaluate__{TINY}__A__tinyPlans__2d"
    assert run_here(run, name) == DONE, run.log(name).read_text()
    assert (model / "crossval_results_folds_0_1" / "metrics_nnunet.json").is_file()
