"""The whole journey of DSVM-UNet on volumes, by nnU-Net's and this package's commands: the twin of test_journey.py.

Planned for VM-UNet; two folds of 2d and 3d_fullres, their ensemble, and a cascade of 3d_lowres and 3d_cascade_fullres.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.label_maps import label_maps
from helpers.short_trainers import ShortDSVM, ShortRun, without_pictures
from helpers.tiny_dataset import SHAPE, TinyDataset, write_raw_dataset

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "no_pictures")]

TRAINER, PLANS = ShortDSVM.__name__, "nnUNetDSVMPlans"
FULL, LOW, CASCADE = "3d_fullres", "3d_lowres", "3d_cascade_fullres"


class VolumesJourney:
    """A dataset, and the user's commands; the tiny volumes need no cascade, which is put into the plans by hand."""

    def __init__(self, root: Path) -> None:
        self.dataset = TinyDataset(root)
        write_raw_dataset(self.dataset)
        self.run("nnUNetv2_dsvm plan_and_preprocess -d 901 -preset small -npfp 1 -np 1 1 --no_pbar -c 2d", FULL)
        file = self.dataset.preprocessed / f"{PLANS}.json"
        plans = json.loads(file.read_text())
        plans["configurations"][LOW] = {
            "inherits_from": FULL, "data_identifier": f"{PLANS}_{LOW}", "spacing": [4.0, 2.0, 2.0],
            "next_stage": CASCADE,
        }  # fmt: skip
        plans["configurations"][CASCADE] = {"inherits_from": FULL, "previous_stage": LOW}
        file.write_text(json.dumps(plans))
        self.run("nnUNetv2_preprocess -d 901 -np 1 --no_pbar -plans_name", PLANS, "-c", LOW)
        for configuration in ("2d", FULL):
            for fold in (0, 1):
                self.train(configuration, fold)
        self.train(LOW, "all")
        self.train(CASCADE, 0)

    def run(self, words: str, *more: object) -> str:
        return self.dataset.command_here(*words.split(), *more, nnUNet_n_proc_DA="1" if "plan" in words else "0")

    def train(self, configuration: str, fold: object, *options: str) -> str:
        return self.dataset.train_here(TRAINER, "--npz", *options, fold=fold, plans=PLANS, configuration=configuration)

    def model(self, configuration: str) -> Path:
        return self.dataset.results / f"{TRAINER}__{PLANS}__{configuration}"

    def predict(self, configuration: str, output: Path, *folds: object, options: tuple = ()) -> None:
        what = f"nnUNetv2_predict -d 901 -tr {TRAINER} -p {PLANS} -device cpu -npp 1 -nps 1 --save_probabilities -c"
        images = self.dataset.raw / "imagesTs"
        self.run(what, configuration, "-f", *folds, "-i", images, "-o", output, *options)


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, without_pictures():
        patch.setattr(ShortRun, "default_num_epochs", 1)
        yield VolumesJourney(tmp_path_factory.mktemp("volumes"))


@pytest.mark.parametrize(("configuration", "fold"), [(FULL, 0), (FULL, 1), (LOW, "all"), (CASCADE, 0)], ids=str)
def test_folds_of_each_configuration_are_trained_and_validated(journey, configuration, fold):
    folder = journey.model(configuration) / f"fold_{fold}"
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert 0 <= summary["foreground_mean"]["Dice"] <= 1
    log = next(folder.glob("training_log_*.txt")).read_text()
    # Slices 4 mm thick: the plan's three steps leave them alone.
    assert "decoder_depths [1, 1, 1] and strides [[1, 1, 1], [1, 2, 2], [1, 2, 2], [1, 2, 2]] and" in log
    assert "as the plans ask" in log and "L_prog" in log


def test_validation_and_continuation_of_a_finished_fold(journey):
    summary = journey.model(FULL) / "fold_1" / "validation" / "summary.json"
    before = json.loads(summary.read_text())["foreground_mean"]
    for option in ("--val", "--c"):
        summary.unlink()
        assert "Validation complete" in journey.train(FULL, 1, option)
        assert json.loads(summary.read_text())["foreground_mean"] == pytest.approx(before, abs=1e-6, nan_ok=True)


def test_the_ensemble_of_slices_and_volumes(journey, tmp_path):
    words = f"nnUNetv2_find_best_configuration 901 -np 1 -f 0 1 -tr {TRAINER} -p {PLANS} -c 2d"
    shown = journey.run(words, FULL)
    assert "nnUNetv2_predict" in shown
    information = json.loads((journey.dataset.results / "inference_information.json").read_text())
    ensemble = f"ensemble___{TRAINER}__{PLANS}__2d___{TRAINER}__{PLANS}__{FULL}___0_1"
    assert set(information["all_results"]) == {journey.model("2d").name, journey.model(FULL).name, ensemble}
    folders = [tmp_path / "2d", tmp_path / FULL]
    for folder in folders:
        journey.predict(folder.name, folder, 0, 1)
    journey.run("nnUNetv2_ensemble -np 1 -i", *folders, "-o", tmp_path / "both")
    probabilities = [np.load(folder / "case_005.npz")["probabilities"].astype(np.float32) for folder in folders]
    assert probabilities[0].shape == probabilities[1].shape == (3, *SHAPE) and not np.allclose(*probabilities)
    (labels,) = label_maps(tmp_path / "both").values()
    assert np.array_equal(labels, np.mean(probabilities, axis=0).argmax(0))


def test_the_cascade_predicts(journey, tmp_path):
    journey.predict(LOW, tmp_path / "low", "all")
    journey.predict(CASCADE, tmp_path / "high", 0, options=("-prev_stage_predictions", tmp_path / "low"))
    probabilities = np.load(tmp_path / "high" / "case_005.npz")["probabilities"]
    assert probabilities.shape == (3, *SHAPE) and np.isfinite(probabilities).all()
    network = VMUNet.from_nnunet(journey.model(CASCADE), 0)
    assert network.input_channels == 3 and network.sizes.axes == 3


def test_evaluation_and_report(journey, tmp_path, monkeypatch):
    for name, value in journey.dataset.environment.items():
        monkeypatch.setenv(name, value)
    what = f"-d 901 -tr {TRAINER} -p {PLANS} -f 0 1 -c {FULL}".split()
    assert main(["evaluate", *what]) == 0
    measured = json.loads((journey.model(FULL) / "crossval_results_folds_0_1" / "metrics_nnunet.json").read_text())
    ours = {case["case"]: case["values"] for case in measured["per_case"]}
    cases = 0
    for fold in (0, 1):
        summary = json.loads((journey.model(FULL) / f"fold_{fold}" / "validation" / "summary.json").read_text())
        for case in summary["metric_per_case"]:
            values = ours[Path(case["prediction_file"]).name.removesuffix(".nii.gz")]
            for name, number in {"one": "1", "two": "2"}.items():
                assert values[name]["Dice"] == pytest.approx(case["metrics"][number]["Dice"])
            cases += 1
    assert cases == len(ours)
    assert main(["report", *what, "-o", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "coronal slice" in text and "sagittal slice" in text and "L_prog (progressive)" in text
