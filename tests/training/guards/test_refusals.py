"""A refusal ends nnU-Net's command in its sentence alone; what is no refusal keeps its traceback."""

import os
import subprocess
import sys
import types
from pathlib import Path

import nnunetv2.paths
import pytest
import torch
from helpers.short_trainers import ShortVMUNet
from helpers.tiny_dataset import PLANS
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_dsvm.errors import UserError, UserValueError
from nnunetv2_dsvm.training.checkpoints.files import CheckpointNotWritten
from nnunetv2_dsvm.training.guards import refusals
from nnunetv2_dsvm.training.guards.out_of_memory import OutOfGpuMemory


@pytest.fixture
def end(monkeypatch, capsys):
    """end(function, hook, program) -> what a program in which the function raises says at its end."""

    def run(function, hook=sys.__excepthook__, program="/opt/bin/nnUNetv2_train"):
        monkeypatch.setattr(sys, "argv", [program])
        monkeypatch.setattr(sys, "excepthook", hook)
        refusals.end_in_a_sentence()
        try:
            function()
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        return capsys.readouterr().err

    return run


def raising(error):
    def function():
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise error from cause

    return function


@pytest.mark.parametrize("kind", [UserError, UserValueError, CheckpointNotWritten, OutOfGpuMemory])
def test_a_refusal_is_its_sentence(end, monkeypatch, kind):
    assert end(raising(kind("Lower it"))) == "\nnnUNetv2_train: Lower it\n"
    monkeypatch.setenv(refusals.SWITCH, "1")
    shown = end(raising(kind("Lower it")))
    assert shown.count("Traceback") == 2 and shown.endswith("Lower it\n")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), OSError(28, "a bug")])
def test_what_is_no_refusal_keeps_its_traceback(end, error):
    shown = end(raising(error))
    assert shown.count("Traceback") == 2 and "the cause" in shown and "a bug" in shown


def test_programs_of_others_keep_their_tracebacks(end):
    assert "Traceback" in end(raising(UserError("Lower it")), program="my_script.py")


def test_python_m_counts_as_nnunets_command(end, monkeypatch):
    main = types.ModuleType("__main__")
    main.__spec__ = types.SimpleNamespace(name="nnunetv2.run.run_training")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert end(raising(UserError("Lower it")), program="/x/run_training.py") == "\nrun_training.py: Lower it\n"


def test_an_excepthook_of_the_users_is_called(end):
    seen = []
    end(raising(UserError("Lower it")), hook=lambda *given: seen.append(given))
    end(raising(RuntimeError("a bug")), hook=lambda *given: seen.append(given))
    (kind, error, traceback), (_, bug, of_bug) = seen
    assert kind is UserError and str(error) == "Lower it"
    assert traceback is error.__traceback__ is error.__cause__ is None
    assert bug.__cause__ is not None and of_bug is not None


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda: str(nnunetv2.paths.nnUNet_results), ": nnUNet_results is not set"),
        (lambda: convert_id_to_dataset_name(998), "a dataset with the ID 998. nnUNet_results is not set"),
        (lambda: PlansManager({"configurations": {"2d": {}}}).get_configuration("4d"), "configuration 4d not found in"),
    ],
    ids=["variable", "dataset", "configuration"],
)  # fmt: skip
def test_what_nnunet_itself_refuses_is_a_sentence_too(end, folders, monkeypatch, function, sentence):
    monkeypatch.delenv("nnUNet_results")
    shown = end(function)
    assert sentence in shown and "Traceback" not in shown and len(shown.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_command_itself(tiny_dataset, tmp_path):
    command = [Path(sys.executable).parent / "nnUNetv2_train", "901", "2d", "0", "-tr", "nnUNetTrainerDSVM"]
    done = subprocess.run(
        [*command, "-p", PLANS, "-device", "cpu"],
        env={
            **os.environ,
            **tiny_dataset.environment,
            "nnUNet_results": str(tmp_path / "results"),
            "NNUNETV2_DSVM_SEED": "one",
        },
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and not (tmp_path / "results").exists()
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nnUNetv2_train: NNUNETV2_DSVM_SEED must be an integer from 0 on, got 'one'")


def test_plans_that_are_not_there_are_a_sentence(end, folders):
    file = folders / "preprocessed" / "Dataset998_X" / "Nope.json"
    assert "Nope.json is missing: plan and preprocess the dataset first" in end(file.read_text)
    assert "Traceback" in end((file.parent / "other" / "Nope.json").read_text)


# --- nnU-Net's variables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, "", " \t", "/data/results ", "/data/results\r", '"/data/results"', "~/results", "$HOME/results"]
)
def test_variables_that_cannot_be_meant_are_refused_before_anything_is_written(
    tiny_dataset, tmp_path, monkeypatch, value
):
    monkeypatch.chdir(tmp_path)
    for name, folder in tiny_dataset.environment.items():
        monkeypatch.setenv(name, folder)
    monkeypatch.delenv("nnUNet_results") if value is None else monkeypatch.setenv("nnUNet_results", value)
    plans = {**tiny_dataset.load_plans(), "continue_training": False}
    with pytest.raises(UserError, match="^nnUNet_results is "):
        ShortVMUNet(plans, "2d", 0, tiny_dataset.load_dataset_json(), device=torch.device("cpu"))
    assert not list(tmp_path.iterdir())
