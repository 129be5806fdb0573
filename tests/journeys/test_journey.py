"""The whole journey on a generated dataset, by nnU-Net's own commands.

The first training and the first prediction are processes of their own, with nnU-Net's background workers; the other
commands run in this process, which has imported torch already.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.label_maps import label_maps
from helpers.tiny_dataset import PLANS, make_tiny_dataset

TRAINER = "nnUNetTrainerDSVM_journey"
MODEL = f"{TRAINER}__{PLANS}__2d"
FOLDS = ("0", "1", "2", "3", "4")

# A directory of the user's own trainers, beside ours: nnU-Net must find this class there.
USERS_TRAINER = f"""
from nnunetv2_dsvm.training.variants import nnUNetTrainerDSVM_FixedOrientation


class {TRAINER}(nnUNetTrainerDSVM_FixedOrientation):
    default_num_epochs = 2
    default_initial_lr = 5e-3

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch = 50
        self.num_val_iterations_per_epoch = 2
"""


class Journey:
    """A dataset and the user's environment; `run` is one command typed by the user, `run_here` one in this process."""

    def __init__(self, root: Path) -> None:
        self.dataset = make_tiny_dataset(root, test_cases=2)
        self.environment = {"nnUNet_extTrainer": str(root / "users_trainers"), "NNUNETV2_DSVM_SEED": "1"}
        (root / "users_trainers").mkdir()
        (root / "users_trainers" / "my_trainer.py").write_text(USERS_TRAINER)
        self.root = root
        self.model = self.dataset.results / MODEL

    def run(self, name: str, *arguments: object, **environment: str) -> str:
        return self.dataset.command(name, *map(str, arguments), **{**self.environment, **environment}).stdout

    def run_here(self, name: str, *arguments: object, **environment: str) -> str:
        return self.dataset.command_here(name, *arguments, **{**self.environment, **environment})

    def training(self, fold: str, *options: str) -> list[str]:
        what = ["901", "2d", fold, "-tr", TRAINER, "-p", PLANS, "-device", "cpu", "--npz"]
        return ["nnUNetv2_train", *what, *options]

    def prediction(self, output: Path) -> list[object]:
        # fmt: off
        return [
            "nnUNetv2_predict", "-d", "901", "-i", self.dataset.raw / "imagesTs", "-o", output, "-c", "2d",
            "-f", *FOLDS, "-tr", TRAINER, "-p", PLANS, "-device", "cpu", "-npp", 1, "-nps", 1,
        ]
        # fmt: on


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    journey = Journey(tmp_path_factory.mktemp("journey"))
    journey.run(*journey.training(FOLDS[0]))
    for fold in FOLDS[1:]:
        journey.run_here(*journey.training(fold))
    return journey


@pytest.fixture(scope="module")
def prediction(journey):
    output = journey.root / "predicted"
    journey.run(*journey.prediction(output))
    return output


def foreground_dice(summary: Path) -> float:
    return json.loads(summary.read_text())["foreground_mean"]["Dice"]


@pytest.mark.slow
def test_five_folds_are_trained_and_validated(journey):
    dice = []
    for fold in FOLDS:
        folder = journey.model / f"fold_{fold}"
        assert (folder / "checkpoint_final.pth").is_file()
        assert (folder / "progress.png").is_file() and (folder / "progress_distillation.png").is_file()
        dice.append(foreground_dice(folder / "validation" / "summary.json"))
        log = next(folder.glob("training_log_*.txt")).read_text()
        assert log.count("segmentation_loss") == log.count("L_proj") == log.count("L_prog") == 2
    assert np.mean(dice) > 0.1, dice


@pytest.mark.slow
def test_validation_and_continuation_of_a_finished_fold(journey):
    summary = journey.model / "fold_0" / "validation" / "summary.json"
    checkpoint = journey.model / "fold_0" / "checkpoint_final.pth"
    dice, weights = foreground_dice(summary), checkpoint.stat().st_size
    for option in ("--val", "--c"):
        summary.unlink()
        assert "Validation complete" in journey.run_here(*journey.training("0", option))
        assert foreground_dice(summary) == pytest.approx(dice, abs=1e-6)
    assert checkpoint.stat().st_size == pytest.approx(weights, rel=0.01)


@pytest.mark.slow
def test_best_configuration_postprocessing_and_evaluation(journey, prediction):
    out = journey.run_here("nnUNetv2_find_best_configuration", "901", "-c", "2d", "-tr", TRAINER, "-p", PLANS, "-np", 1)
    assert TRAINER in out
    crossval = journey.model / "crossval_results_folds_0_1_2_3_4"
    processed = journey.root / "postprocessed"
    # fmt: off
    journey.run_here(
        "nnUNetv2_apply_postprocessing", "-i", prediction, "-o", processed, "-np", 1,
        "-pp_pkl_file", crossval / "postprocessing.pkl", "-plans_json", crossval / "plans.json",
    )
    journey.run_here(
        "nnUNetv2_evaluate_folder", journey.dataset.raw / "labelsTs", processed, "-np", 1,
        "-djfile", journey.model / "dataset.json", "-pfile", journey.model / "plans.json",
    )
    # fmt: on
    assert len(label_maps(processed)) == 2
    assert foreground_dice(processed / "summary.json") > 0.1


@pytest.mark.slow
def test_report_on_the_five_folds(journey):
    out = journey.root / "report"
    shown = journey.run_here(
        "nnUNetv2_dsvm", "report", "-d", "901", "-tr", TRAINER, "-p", PLANS, "-c", "2d", "-f", *FOLDS, "-o", out
    )
    assert str(out / "report.html") in shown
    assert {path.name for path in out.iterdir()} > {"report.html", f"report_curves_{TRAINER}.png"}
    assert len(list(out.glob("report_case_case_*.png"))) == 3
    text = (out / "report.html").read_text(encoding="utf-8")
    dice = [foreground_dice(journey.model / f"fold_{fold}" / "validation" / "summary.json") for fold in FOLDS]
    assert f"{np.mean(dice):.3f} ± " in text and "L_proj (projection)" in text


@pytest.mark.slow
def test_a_model_installed_from_a_zip_predicts_the_same(journey, prediction, tmp_path):
    archive = tmp_path / "model.zip"
    # fmt: off
    journey.run_here(
        "nnUNetv2_export_model_to_zip", "-d", "901", "-o", archive, "-c", "2d", "-tr", TRAINER, "-p", PLANS,
        "-f", *FOLDS,
    )
    # fmt: on
    elsewhere = {"nnUNet_results": str(tmp_path / "results")}
    journey.run_here("nnUNetv2_install_pretrained_model_from_zip", archive, **elsewhere)
    journey.run_here(*journey.prediction(tmp_path / "again"), **elsewhere)
    expected, got = label_maps(prediction), label_maps(tmp_path / "again")
    assert len(expected) == 2 and list(got) == list(expected)
    for name, labels in expected.items():
        assert np.array_equal(got[name], labels)
        assert labels.any(), "an empty prediction would equal any other"
