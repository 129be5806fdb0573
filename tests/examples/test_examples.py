"""The examples, run as they are on miniature data."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.commands_here import run_script
from helpers.litter import scatter
from helpers.places import EXAMPLES
from helpers.quick_nnunet import few_voxels_drawn
from helpers.tiny_dataset import PLANS, TinyDataset
from nnunetv2.run.run_training import run_training_entry
from PIL import Image

TRAINER = "nnUNetTrainerDSVM_mini"

# The example's trainer with a tiny network and two steps, so that the scripts end in seconds.
MINI = f"""
import sys

from custom_trainer import nnUNetTrainerDSVM_ownWeights
from helpers.quick_nnunet import threads_for_processes
from nnunetv2_dsvm.architecture.vm_unet import VMUNet

if "pytest" not in sys.modules:  # in a process of its own
    threads = threads_for_processes()  # processes that import torch take longer than training here
    threads.__enter__()


class {TRAINER}(nnUNetTrainerDSVM_ownWeights):
    default_num_epochs = 2

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 2

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        sizes = dict(dims=[8, 16], encoder_depths=[1, 1], decoder_depths=[1, 1], d_state=2)
        return VMUNet(num_input_channels, num_output_channels, **sizes)
"""


# Planning and prediction run in this process, which has torch loaded already. cross_validate takes commands from beside
# its Python: so the one here plans before it.
CROSS_VALIDATE = f"""#!/bin/sh
if [ "$1" = cross_validate ] && [ -z "$PLANS" ]; then nnUNetv2_plan_and_preprocess -d "$3" -c 2d; fi
exec {Path(sys.executable).parent / "nnUNetv2_dsvm"} "$@"
"""


class Workplace:
    """A user's folders, with the example's trainer in a folder of their own; `dataset` is copied into them."""

    def __init__(self, root: Path, dataset: TinyDataset | None = None) -> None:
        self.root = root
        self.dataset = TinyDataset(root)
        trainers = root / "my_trainers"
        trainers.mkdir()
        (trainers / "custom_trainer.py").write_text((EXAMPLES / "custom_trainer.py").read_text(encoding="utf-8"))
        (trainers / "mini.py").write_text(MINI)
        (root / "bin").mkdir()
        (root / "bin" / "nnUNetv2_dsvm").write_text(CROSS_VALIDATE)
        (root / "bin" / "nnUNetv2_dsvm").chmod(0o755)
        self.variables = {
            **self.dataset.environment,
            "nnUNet_def_n_proc": "1",
            "PATH": os.pathsep.join([str(root / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "nnUNet_extTrainer": str(trainers),
            "NNUNETV2_DSVM_SEED": "1",
            "TRAINERS": TRAINER,
            "DEVICE": "cpu",
        }
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            if dataset is not None and (dataset.root / name).is_dir():
                shutil.copytree(dataset.root / name, root / name, dirs_exist_ok=True)

    def run_here(self, function: Callable[[], object], *arguments: object) -> None:
        """Call a command's function in this process, which has torch loaded already, with the command's arguments."""
        with mock.patch.dict(os.environ, self.variables), mock.patch.object(sys, "argv", list(map(str, arguments))):
            function()

    def plan(self, *arguments: str) -> None:
        with few_voxels_drawn():  # nnU-Net cannot plan with 0 processes
            self.dataset.command_here("nnUNetv2_plan_and_preprocess", *arguments, nnUNet_n_proc_DA="1")

    def predict(self, *arguments: str) -> None:
        self.dataset.command_here("nnUNetv2_predict", *arguments, "-npp", 0, "-nps", 0)

    def run(self, script: list, **variables: str) -> str:
        with mock.patch.dict(os.environ, self.variables):
            done = run_script(
                script,
                commands={"nnUNetv2_plan_and_preprocess": self.plan, "nnUNetv2_predict": self.predict},
                folder=self.root / "bin",
                environment=variables,
                within=self.root,
            )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_dataset):
    return Workplace(tmp_path_factory.mktemp("examples"), tiny_dataset)


@pytest.fixture(scope="module")
def model(workplace):
    """One fold, trained with the example's own weights of the terms."""
    arguments = ["901", "2d", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu"]
    workplace.run_here(run_training_entry, "nnUNetv2_train", *arguments)
    return workplace.dataset.results / f"{TRAINER}__{PLANS}__2d"


@pytest.mark.slow
def test_custom_trainer_trains_with_its_own_weights(model):
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    settings = checkpoint["nnunetv2_dsvm"]["settings"]
    assert (settings["lambda_projection"], settings["lambda_progressive"]) == (0.3, 0.05)


@pytest.mark.slow
def test_predict_new_scan_gives_what_the_validation_gave(workplace, model, tmp_path, capsys):
    """By the only finished fold, beside one that has begun, an empty one and litter."""
    (expected,) = (model / "fold_0" / "validation").glob("*.nii.gz")
    model = shutil.copytree(model, tmp_path / model.name)
    shutil.copytree(model / "fold_0", model / "fold_1")
    (model / "fold_1" / "checkpoint_final.pth").rename(model / "fold_1" / "checkpoint_latest.pth")
    (model / "fold_2").mkdir()
    scatter(model)
    image = workplace.dataset.raw / "imagesTr" / expected.name.replace(".nii.gz", "_0000.nii.gz")
    output, script = workplace.root / "new" / "scan.nii.gz", EXAMPLES / "predict_new_scan.py"
    workplace.run_here(
        lambda: runpy.run_path(str(script), run_name="__main__"), script, model, output, image, "--device", "cpu"
    )
    shown = capsys.readouterr().out
    assert "one: " in shown and "two: " in shown and "Finished folds: 0\n" in shown
    got, expected = (sitk.ReadImage(str(path)) for path in (output, expected))
    voxels = sitk.GetArrayFromImage(got)
    assert voxels.any(), "an empty prediction would equal any other"
    assert (voxels == sitk.GetArrayFromImage(expected)).mean() > 0.999
    assert got.GetSpacing() == expected.GetSpacing() and got.GetOrigin() == expected.GetOrigin()


@pytest.mark.parametrize(("folds", "expected"), [
    ({"0": "final", "3": "final", "10": "final", "4": "best", "all": "final"}, [0, 3, 10]),
    ({"0": "latest", "all": "final"}, ["all"]),
    ({"0": "latest", "1": "best"}, None),
    ({}, None),
])  # fmt: skip
def test_predict_new_scan_takes_the_finished_folds(folds, expected, tmp_path):
    for fold, checkpoint in folds.items():
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth").touch()
    finished_folds = runpy.run_path(str(EXAMPLES / "predict_new_scan.py"))["finished_folds"]
    if expected is not None:
        assert finished_folds(tmp_path) == expected
        return
    with pytest.raises(SystemExit, match=f"has no finished fold.*it has {', '.join(folds) or 'no fold at all'}"):
        finished_folds(tmp_path)


@pytest.mark.parametrize("script", ["five_fold.sh", "train_and_predict.sh"])
@pytest.mark.parametrize("value", ["", '"/data/results"', "~/results", "${HOME}/results", "/data/results\n"])
def test_scripts_refuse_folders_that_cannot_be_meant(script, value, tmp_path):
    folders = {"nnUNet_raw": str(tmp_path), "nnUNet_preprocessed": str(tmp_path), "nnUNet_results": value}
    command = [EXAMPLES / script, "27", tmp_path, tmp_path]
    said = f"nnUNet_results is '{value}', expected a path"
    if script == "five_fold.sh":
        folders["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        command, said = command[:3], f"nnUNet_results is {value!r}" if value else "nnUNet_results is empty"
    done = subprocess.run(command, env={**os.environ, **folders}, capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and said in done.stderr


def test_test_set_takes_the_folds_that_all_trainers_have_finished(tmp_path):
    name = "Dataset027_Mine"
    (tmp_path / "raw" / name / "imagesTs").mkdir(parents=True)
    (tmp_path / "raw" / name / "dataset.json").touch()
    (tmp_path / "raw" / "Dataset027_Mine.tar").touch()
    for trainer, folds in (("A", (0, 2)), ("B", (0, 1, 2))):
        for fold in folds:
            folder = tmp_path / "results" / name / f"{trainer}__nnUNetPlans__2d" / f"fold_{fold}"
            folder.mkdir(parents=True)
            (folder / f"checkpoint_{'latest' if (trainer, fold) == ('A', 2) else 'final'}.pth").touch()
    (tmp_path / "nnUNetv2_predict").write_text("#!/bin/sh\necho predict $@\n")
    (tmp_path / "nnUNetv2_predict").chmod(0o755)

    def run(trainers: str, **variables: str) -> subprocess.CompletedProcess:
        folders = {f"nnUNet_{kind}": str(tmp_path / kind) for kind in ("raw", "results")}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, **folders, "TRAINERS": trainers, **variables}
        command = [EXAMPLES / "test_set.sh", "nnunet", "27", tmp_path / "out"]
        return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")

    for trainers, folds in (("A", "0"), ("B", "0 1 2"), ("A B", "0")):
        shown = run(trainers).stdout
        assert f"Finished folds: {folds}\n" in shown
        assert shown.count(f"-f {folds} -device") == len(trainers.split())
    for trainers, variables in (("C", {}), ("A B", {"FOLDS": "0 1"})):
        done = run(trainers, **variables)
        assert done.returncode == 1 and "finished by" in done.stderr and "predict" not in done.stdout
    for raw in (f'"{tmp_path}/raw"', "~/raw", "$HOME/raw", f"{tmp_path}/raw "):
        done = run("A", nnUNet_raw=raw)
        assert done.returncode == 1 and "nnUNet_raw is " in done.stderr


@pytest.mark.slow
def test_scripts_say_how_they_are_called(workplace):
    for script in sorted(EXAMPLES.glob("*.sh")):
        done = subprocess.run([str(script)], capture_output=True, encoding="utf-8")
        assert done.returncode == 2 and f"examples/{script.name} " in done.stdout, script
        assert "set -euo" not in done.stdout


@pytest.mark.slow
def test_five_fold_after_an_interrupted_preprocessing(workplace, model):
    report = workplace.root / "five_fold_report"
    preprocessed = workplace.dataset.preprocessed
    plans = json.loads((preprocessed / f"{PLANS}.json").read_text(encoding="utf-8"))
    data = preprocessed / plans["configurations"]["2d"]["data_identifier"]
    whole = sorted(path.name for path in data.iterdir())
    next(data.glob("*.pkl")).unlink()
    workplace.run([EXAMPLES / "five_fold.sh", "901", report], FOLDS="1", PLANS=PLANS)
    assert sorted(path.name for path in data.iterdir()) == whole
    check_report(report)
    assert (model / "fold_1" / "checkpoint_final.pth").is_file()


@pytest.mark.slow
def test_five_fold_does_not_make_plans_of_a_name_it_does_not_know(workplace):
    environment = {**os.environ, **workplace.variables, "PLANS": "mine"}
    done = subprocess.run(
        [EXAMPLES / "five_fold.sh", "901", workplace.root / "no_report"], env=environment, capture_output=True
    )
    assert done.returncode == 1 and b"mine.json: make these plans first" in done.stderr


@pytest.mark.slow
def test_isic2018(tmp_path):
    source, rng = tmp_path / "source", np.random.default_rng(0)
    for name in ("Training", "Validation", "Test"):
        images, masks = (source / f"ISIC2018_Task1{part}" for part in (f"-2_{name}_Input", f"_{name}_GroundTruth"))
        images.mkdir(parents=True)
        masks.mkdir()
        for i in range(5 if name == "Training" else 1):
            case = f"ISIC_{len(name):03d}{i:04d}"
            y, x = np.indices((60, 80))
            mask = np.hypot(y - rng.integers(20, 40), x - rng.integers(30, 50)) < 15
            image = np.where(mask[..., None], (110, 66, 50), (214, 168, 140)) + rng.normal(0, 8, (60, 80, 3))
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(images / f"{case}.jpg")
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{case}_segmentation.png")
    workplace = Workplace(tmp_path)
    workplace.run([EXAMPLES / "isic2018.sh", source, "918", tmp_path / "report"], SIZE="64")
    check_report(tmp_path / "report", "isic")
    check_test_set(tmp_path / "report", "metrics_isic.json", 1)


@pytest.mark.slow
def test_synapse(tmp_path):
    source, rng = tmp_path / "source", np.random.default_rng(0)
    (source / "img").mkdir(parents=True)
    (source / "label").mkdir()
    for number in (*range(1, 11), *range(21, 41)):
        labels = np.zeros((6, 40, 48), np.uint8)
        for organ in range(1, 14):
            y, x = 6 * ((organ - 1) // 4) + 6, 10 * ((organ - 1) % 4) + 6
            labels[1:5, y : y + 5, x : x + 7] = organ
        image = (labels * 20.0 - 50 + rng.normal(0, 10, labels.shape)).astype(np.int16)
        for name, voxels in ((f"img/img{number:04d}", image), (f"label/label{number:04d}", labels)):
            volume = sitk.GetImageFromArray(voxels)
            volume.SetSpacing((0.8, 0.8, 3.0))
            sitk.WriteImage(volume, str(source / f"{name}.nii.gz"))
    workplace = Workplace(tmp_path)
    workplace.run([EXAMPLES / "synapse.sh", source, "920", tmp_path / "report"], FOLDS="0")
    check_report(tmp_path / "report", "synapse")
    check_test_set(tmp_path / "report", "metrics_synapse.json", 12)


def check_report(folder: Path, protocol: str | None = None) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert protocol is None or f'<section id="{protocol}">' in text
    assert text.count("<img") == len(list(folder.glob("report_*.png"))) >= 2
    assert "HD95 (mm)" in text, "the metrics of nnUNetv2_dsvm evaluate"


def check_test_set(folder: Path, metrics: str, cases: int) -> None:
    """Predicted, and measured against labelsTs."""
    content = json.loads((folder / "test" / f"{TRAINER}_folds_0" / metrics).read_text(encoding="utf-8"))
    assert len(content["per_case"]) == cases and all(Path(case["prediction"]).is_file() for case in content["per_case"])
