"""The examples that take long as processes, run inside the test's process; see test_examples.py for the others."""

import json
import re
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers.commands_here import run_script
from helpers.places import EXAMPLES

TRAINER = "ShortDSVM"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread", "no_pictures", "one_epoch")
def test_train_and_predict(copied_dataset, tmp_path):
    dataset, output = copied_dataset, tmp_path / "predicted"
    plans = {**dataset.load_plans(), "plans_name": "nnUNetPlans"}
    (dataset.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    called = []

    def command(name, *arguments):
        called.append(name)
        one_process = ("-npp", 0, "-nps", 0) if name == "nnUNetv2_predict" else ()
        dataset.command_here(name, *arguments, *one_process)

    names = [f"nnUNetv2_{name}" for name in ("train", "find_best_configuration", "predict", "apply_postprocessing",
                                             "evaluate_folder", "plan_and_preprocess")]  # fmt: skip
    (tmp_path / "bin").mkdir()
    script = [EXAMPLES / "train_and_predict.sh", "901", dataset.raw / "imagesTs", output, dataset.raw / "labelsTs"]
    done = run_script(
        script,
        commands={name: partial(command, name) for name in names},
        folder=tmp_path / "bin",
        environment={**dataset.environment, "TRAINER": TRAINER, "DEVICE": "cpu"},
    )
    assert done.returncode == 0, done.stdout
    assert called == ["nnUNetv2_train"] * 5 + names[1:5]  # planned before
    cases = sorted(path.name for path in (dataset.raw / "labelsTs").iterdir())
    for folder in ("raw", "postprocessed"):
        assert sorted(path.name for path in (output / folder).glob("*.nii.gz")) == cases
    summary = json.loads((output / "summary.json").read_text())
    assert [Path(case["prediction_file"]).parent for case in summary["metric_per_case"]] == [output / "postprocessed"]
    model = dataset.results / f"{TRAINER}__nnUNetPlans__2d"
    assert all((model / f"fold_{fold}" / "checkpoint_final.pth").is_file() for fold in range(5))


@pytest.fixture
def measure(monkeypatch, capsys):
    """measure(*options): what examples/measure_evaluation.py prints about small volumes."""

    def run(*options):
        script = EXAMPLES / "measure_evaluation.py"
        monkeypatch.setattr(sys, "argv", [str(script), "--shape", "16", "48", "48", "-np", "1", *map(str, options)])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_evaluate_is_measured_beside_medpy(measure):
    shown = measure("--volumes", 3, "--medpy", 2)
    assert re.search(r"evaluate, all nine metrics +3 volumes in", shown) and "medpy, hd95 only             2" in shown
    assert float(re.search(r"largest difference of HD95: (\S+) mm", shown)[1]) < 1e-6


def test_distance_libraries_are_compared(measure):
    shown = measure("--libraries")
    for library in ("scipy distance map", "SimpleITK distance map", "medpy, hd95 and assd"):
        difference = re.search(rf"{library} .*largest difference to the first: HD95 (\S+) mm", shown)
        assert float(difference[1]) < 1e-4, library
