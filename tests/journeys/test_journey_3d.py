"""nnU-Net's own network with the distillation in 3D, by nnU-Net's own plans and commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.label_maps import label_maps
from helpers.pages import DOCUMENTATION, blocks
from helpers.quick_nnunet import few_voxels_drawn
from helpers.short_trainers import ShortDistilled
from helpers.tiny_dataset import TinyDataset, write_raw_dataset

from nnunetv2_dsvm import export
from nnunetv2_dsvm.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "no_pictures")]

TRAINER, PLANS, CONFIGURATION = ShortDistilled.__name__, "nnUNetPlans", "3d_fullres"
WITHOUT_THE_PACKAGE = """
import sys
sys.modules["nnunetv2_dsvm"] = None
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
sys.argv = ["nnUNetv2_predict", *sys.argv[1:]]
if __name__ == "__main__":
    predict_entry_point()
"""


class Journey3D:
    """A dataset, planned by nnU-Net's command, and two folds, one of them trained by it."""

    def __init__(self, root: Path) -> None:
        self.dataset = TinyDataset(root)
        write_raw_dataset(self.dataset)
        arguments = ["-d", "901", "-c", "2d", "3d_fullres", "-np", "1", "1", "-npfp", "1"]
        with few_voxels_drawn():  # nnU-Net cannot plan with 0 processes
            self.dataset.command_here("nnUNetv2_plan_and_preprocess", *arguments, nnUNet_n_proc_DA="1")
        self.model = self.dataset.results / f"{TRAINER}__{PLANS}__{CONFIGURATION}"
        self.train(1)  # which writes the folder of trainers, too
        self.dataset.command(
            *f"nnUNetv2_train 901 {CONFIGURATION} 0 -tr {TRAINER} -device cpu --npz".split(),
            nnUNet_extTrainer=str(root / "my_trainers"),
        )

    def train(self, fold: int, *options: str) -> str:
        return self.dataset.train_here(TRAINER, "--npz", *options, fold=fold, plans=PLANS, configuration=CONFIGURATION)

    def words(self, trainer: str, output: Path) -> list[str]:
        """Arguments of nnUNetv2_predict."""
        what = f"-d 901 -c {CONFIGURATION} -f 0 1 -tr {trainer} -p {PLANS} -device cpu -npp 1 -nps 1".split()
        return ["-i", str(self.dataset.raw / "imagesTs"), "-o", str(output), *what]


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    return Journey3D(tmp_path_factory.mktemp("journey_3d"))


def foreground_dice(fold: Path) -> float:
    return json.loads((fold / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]


def test_two_folds_are_trained_validated_and_continued(journey):
    for fold in (0, 1):
        log = next((journey.model / f"fold_{fold}").glob("training_log_*.txt")).read_text()
        assert log.count("segmentation_loss") == log.count("L_proj") == log.count("L_prog") == 3
    fold = journey.model / "fold_0"
    assert (fold / "progress_distillation.png").is_file()
    dice = foreground_dice(fold)
    for option in ("--val", "--c"):
        (fold / "validation" / "summary.json").unlink()
        assert "Validation complete" in journey.train(0, option)
        assert foreground_dice(fold) == pytest.approx(dice, abs=1e-6)


def test_the_best_configuration_and_the_report(journey, tmp_path):
    what = f"-tr {TRAINER} -p {PLANS} -c {CONFIGURATION} -f 0 1".split()
    shown = journey.dataset.command_here("nnUNetv2_find_best_configuration", "901", *what, "-np", "1")
    assert f"-tr {TRAINER}" in shown
    journey.dataset.command_here("nnUNetv2_dsvm", "report", "-d", "901", *what, "-o", tmp_path / "report")
    assert "L_prog (progressive)" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def renaming_on_the_page() -> str:
    (code,) = (block.code for block in blocks(DOCUMENTATION / "trainers.md") if "trainer_name" in block.code)
    return code


def test_a_machine_without_the_package_predicts_the_same(journey, tmp_path):
    """After the renaming that documentation/trainers.md shows."""
    journey.dataset.command_here("nnUNetv2_predict", *journey.words(TRAINER, tmp_path / "ours"))
    results = tmp_path / "nnUNet_results"
    name = f"nnUNetTrainer__{PLANS}__{CONFIGURATION}"
    shutil.copytree(journey.model, results / journey.dataset.name / name)
    code = renaming_on_the_page()
    environment = {**os.environ, **journey.dataset.environment, "nnUNet_results": str(results)}
    subprocess.run([sys.executable, "-c", code], cwd=results / journey.dataset.name, check=True)
    (tmp_path / "predict.py").write_text(WITHOUT_THE_PACKAGE)
    subprocess.run(
        [sys.executable, tmp_path / "predict.py", *journey.words("nnUNetTrainer", tmp_path / "theirs")],
        env={**environment, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        check=True,
    )
    ours, theirs = label_maps(tmp_path / "ours"), label_maps(tmp_path / "theirs")
    assert list(ours) == list(theirs) == ["case_005.nii.gz"]
    assert np.array_equal(ours["case_005.nii.gz"], theirs["case_005.nii.gz"])


def test_its_export_is_refused_in_a_sentence(journey, tmp_path):
    with pytest.raises(UserError, match="trained by ShortDistilled and is not of the VM-UNet.*nnUNetv2_predict"):
        export(journey.model, tmp_path / "model.pt2", fold=0)
