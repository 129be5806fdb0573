"""The accuracy study: its data keep training and test apart, its grids and tables say what they mean, and it trains."""

import itertools
import json
import os
import sys
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.places import EXAMPLES
from helpers.tiny_dataset import PLANS
from nnunetv2.run.run_training import run_training

STUDY = EXAMPLES / "accuracy_study"


@pytest.fixture(scope="module", autouse=True)
def on_path():
    """The study's files import each other as scripts do."""
    sys.path.insert(0, str(STUDY))
    yield
    sys.path.remove(str(STUDY))


@pytest.fixture
def templates(tmp_path):
    """A head of 181 sagittal slices whose values are the slices' numbers, and AAL's labels 1 and 2 at the midline."""
    slices = np.broadcast_to(np.arange(181), (6, 5, 181)).astype(np.uint8)
    labels = np.where(slices < 95, 1, 57).astype(np.uint8)
    for name, array in (("ch2", slices), ("aal", labels)):
        image = sitk.GetImageFromArray(array)
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    return tmp_path


def test_colin27s_test_slices_mirror_the_training_slices_and_none_is_in_both(templates):
    from colin27 import BLOCKS, MIDLINE, TEST_CASE, write_colin27, write_mirrored_label

    folder = templates / "Dataset902_Colin27"
    write_colin27(templates, folder)

    def values(path):
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))

    training = [values(path)[:, 0, 0] for path in sorted((folder / "imagesTr").iterdir())]
    test = values(folder / "imagesTs" / f"{TEST_CASE}_0000.nii.gz")[:, 0, 0]
    # Standardised values are the slices' numbers on another scale: neighbouring slices of a block are one unit apart.
    unit = training[0][1] - training[0][0]
    numbers = [np.rint((block - training[0][0]) / unit + BLOCKS[0][0]).astype(int) for block in (*training, test)]
    assert [(block[0], block[-1] + 1) for block in numbers[:-1]] == list(BLOCKS)
    assert numbers[-1][0] == 2 * MIDLINE - numbers[-2][-1] and numbers[-1][-1] == 2 * MIDLINE - numbers[0][0]
    assert all(later[0] - earlier[-1] > 4 for earlier, later in itertools.pairwise(numbers[:-1]))
    assert not {*numbers[-1]} & {*np.concatenate(numbers[:-1])}

    write_mirrored_label(templates, templates / "mirrored")
    mirrored = values(templates / "mirrored" / f"{TEST_CASE}.nii.gz")
    assert (mirrored == 1).all(), "all training slices lie left of slice 95: their label is the frontal one"
    truth = values(folder / "labelsTs" / f"{TEST_CASE}.nii.gz")
    assert [*truth[:, 0, 0]] == [1 if number < 95 else 2 for number in numbers[-1]]


def test_defaults_of_a_grid_reach_their_trainers_only(tmp_path):
    from grid import read_grid

    content = {
        "datasets": ["Dataset900_A", "Dataset902_B"],
        "fold": 3,
        "test": True,
        "seeds": [1, 2],
        "defaults": {
            "all": {"settings": {"num_epochs": 5}},
            "VM-UNet": {"network": {"d_state": 4}, "settings": {"initial_lr": 0.1}},
            "DSVM": {"settings": {"lambda_projection": 3.0}},
        },
        "runs": {
            "own": {"trainer": ""},
            "control": {"trainer": "VMUNet"},
            "both": {"trainer": "DSVM", "network": {"dims": [8, 16]}, "settings": {"initial_lr": 0.2}},
        },
    }
    (tmp_path / "grid.json").write_text(json.dumps(content))
    trainings = read_grid(tmp_path / "grid.json")
    assert [training.seed for training in trainings] == [1] * 6 + [2] * 6
    own, control, both = (next(t for t in trainings if t.name == name) for name in content["runs"])
    assert (own.trainer, own.network, own.settings) == ("nnUNetTrainer_study", None, {"num_epochs": 5})
    assert (control.network, control.settings) == ({"d_state": 4}, {"num_epochs": 5, "initial_lr": 0.1})
    assert both.network == {"d_state": 4, "dims": [8, 16]}
    assert both.settings == {"num_epochs": 5, "initial_lr": 0.2, "lambda_projection": 3.0}
    assert own.plans == "nnUNetPlans" and len({own.plans, control.plans, both.plans}) == 3
    assert len({training.folder for training in trainings}) == 12

    content["runs"]["own"]["batch_factor"] = 2
    (tmp_path / "grid.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="own"):
        read_grid(tmp_path / "grid.json")


@pytest.mark.parametrize("name", sorted(path.name for path in STUDY.glob("grid_*.json")))
def test_every_setting_of_the_grids_is_one_of_its_trainer(name):
    from grid import read_grid

    with mock.patch.object(sys, "path", [str(STUDY / "trainers"), *sys.path]):
        import accuracy_study_trainers as trainers
    for training in read_grid(STUDY / name):
        trainer = getattr(trainers, training.trainer)
        set_by_nnunet = {"num_epochs", "initial_lr", "weight_decay", "enable_deep_supervision"}
        assert all(hasattr(trainer, setting) or setting in set_by_nnunet for setting in training.settings), training


def test_differences_are_paired_by_seed():
    from tables import table

    dice = {"with": [0.8, 0.7, 0.6], "without": [0.75, 0.68, 0.59]}
    same = {"dataset": "d", "part": "test", "HD95_mm": "", "missed": "0"}
    scores = [
        {**same, "run": run, "seed": str(seed), "label": label, "Dice": str(value)}
        for run, values in dice.items()
        for seed, value in enumerate(values)
        for label in ("mean", "liver")
    ]
    first, second = table(scores, [], "d", "test", ["without"]).splitlines()[2:]
    difference = np.subtract(dice["with"], dice["without"])
    assert first.startswith("| with ") and f"| {difference.mean():+.4f} ± {difference.std(ddof=1):.4f} |" in first
    assert f"| {np.mean(dice['without']):.4f} ± {np.std(dice['without'], ddof=1):.4f} |" in second


def test_tables_join_folders_and_refuse_a_run_that_is_in_none(tmp_path, capsys):
    import tables

    for number, run in enumerate(("control", "changed")):
        (tmp_path / run).mkdir()
        header = "dataset,run,seed,part,label,Dice,HD95_mm,missed"
        (tmp_path / run / "scores.csv").write_text(f"{header}\nd,{run},1,validation,mean,0.{5 + number},,0\n")
        (tmp_path / run / "trainings.csv").write_text("dataset,run\n")
    folders = [str(tmp_path / run) for run in ("control", "changed")]
    with mock.patch.object(sys, "argv", ["tables.py", *folders, "--minus", "control"]):
        tables.main()
    assert "| changed |  | 0.6000 | – | 0 | +0.1000 |" in capsys.readouterr().out
    with mock.patch.object(sys, "argv", ["tables.py", folders[1], "--minus", "control"]), pytest.raises(SystemExit):
        tables.main()
    assert "no run control" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "plans"), [("nnUNetTrainer_study", "nnUNetPlans"), ("nnUNetTrainerDSVM_projection_study", PLANS)]
)
def test_a_training_of_the_study_leaves_what_is_collected(trainer, plans, copied_dataset):
    settings = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
    variables = {
        **copied_dataset.environment,
        "nnUNet_extTrainer": str(STUDY / "trainers"),
        "NNUNETV2_DSVM_SEED": "3",
        "ACCURACY_STUDY_SETTINGS": json.dumps(settings),
    }
    with mock.patch.dict(os.environ, variables):
        run_training("901", "2d", 0, trainer, plans, device=torch.device("cpu"))
    fold = copied_dataset.results / f"{trainer}__{plans}__2d" / "fold_0"
    assert len(json.loads((fold / "history.json").read_text())["mean_fg_dice"]) == 2
    assert json.loads((fold / "facts.json").read_text())["parameters"] > 0
    assert (fold / "checkpoint_final.pth").is_file() and not (fold / "checkpoint_best.pth").is_file()
    assert list((fold / "validation").glob("*.nii.gz"))
