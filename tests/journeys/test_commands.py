"""The options of nnU-Net's commands with our trainers, and our models beside nnU-Net's own."""

import itertools
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.short_trainers import without_pictures
from helpers.tiny_dataset import PLANS, SHAPE

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


def labels_of(folder):
    """The labels that occur in each label map of a folder."""
    maps = sorted(folder.glob("*.nii.gz"))
    return [np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist() for path in maps]


# --- nnUNetv2_train ---------------------------------------------------------------------------------------------------


def test_val_best_validates_with_the_best_checkpoint(copied_dataset):
    fold = copied_dataset.results / "ShortBestFirst__tinyPlans__2d" / "fold_0"
    validated = []
    for options in (["--val_best"], ["--val"], ["--val", "--val_best", "--npz"]):
        copied_dataset.train_here("ShortBestFirst", *options)
        validated += labels_of(fold / "validation")
        names = sorted(path.name for path in fold.glob("checkpoint*"))
        assert names == ["checkpoint_best.pth", "checkpoint_final.pth"]
        epochs = [torch.load(fold / name, weights_only=False)["current_epoch"] for name in names]
        assert epochs == [1, 3]
    assert validated == [[1], [0], [1]]
    probabilities = np.load(next((fold / "validation").glob("*.npz")))["probabilities"]
    assert probabilities.argmax(0).min() == 1


def test_without_checkpoints_the_validation_still_writes_probabilities(copied_dataset):
    with pytest.raises(AssertionError, match="--val_best is not compatible with --disable_checkpointing"):
        copied_dataset.train_here("ShortDSVM", "--disable_checkpointing", "--val_best")
    assert not any(copied_dataset.results.glob("*"))
    copied_dataset.train_here("ShortDSVM", "--disable_checkpointing", "--npz")
    fold = copied_dataset.results / "ShortDSVM__tinyPlans__2d" / "fold_0"
    assert not list(fold.rglob("checkpoint*")) and (fold / "validation" / "summary.json").is_file()
    (probabilities,) = (np.load(path)["probabilities"] for path in (fold / "validation").glob("*.npz"))
    assert probabilities.shape == (3, *SHAPE)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-3)


def test_mps_is_refused_where_there_is_none(copied_dataset, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="-device mps: torch .* finds no usable Apple GPU.*-device cpu"):
        copied_dataset.train_here("ShortDSVM", "-device", "mps")
    assert not any(copied_dataset.results.glob("*"))


# --- models beside each other -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    """Two of our trainers, cross-validated on two folds, and nnU-Net's own with its own plans on one."""
    dataset = tiny_dataset.copy(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch, without_pictures():
        patch.setenv("NNUNETV2_DSVM_SEED", "1")
        for trainer, fold in itertools.product(("ShortVMUNet", "ShortDSVM"), (0, 1)):
            dataset.train_here(trainer, "--npz", fold=fold)
        dataset.train_here("ShortNnUNet", plans="nnUNetPlans")
    return dataset


def predict(dataset, trainer, output, *options, plans=PLANS, folds=(0,)):
    # fmt: off
    dataset.command_here(
        "nnUNetv2_predict", "-d", "901", "-i", dataset.raw / "imagesTs", "-o", output, "-c", "2d", "-p", plans,
        "-f", *folds, "-tr", trainer, "-device", "cpu", "-npp", 0, "-nps", 0, *options,
    )
    # fmt: on


@pytest.mark.slow
def test_an_ensemble_with_nnunets_own_model_is_the_mean_of_probabilities(trained, tmp_path):
    predict(trained, "ShortDSVM", tmp_path / "ours", "--save_probabilities", folds=(0, 1))
    predict(trained, "ShortNnUNet", tmp_path / "nnunets", "--save_probabilities", plans="nnUNetPlans")
    folders = [tmp_path / name for name in ("ours", "nnunets", "both")]
    trained.command("nnUNetv2_ensemble", "-i", *folders[:2], "-o", folders[2], "--save_npz", "-np", "1")
    ours, nnunets, both = (np.load(folder / "case_005.npz")["probabilities"] for folder in folders)
    assert ours.shape == (3, *SHAPE) and np.abs(ours - nnunets).max() > 0.01
    np.testing.assert_allclose(both, (ours.astype(float) + nnunets) / 2, atol=1e-3)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folders[2] / "case_005.nii.gz")))
    np.testing.assert_array_equal(labels, both.argmax(0))


def test_the_best_of_our_trainers_is_found_and_its_instructions_work(trained, tmp_path):
    # fmt: off
    trained.command_here(
        "nnUNetv2_find_best_configuration", "901", "-c", "2d", "-p", PLANS, "-tr", "ShortVMUNet", "ShortDSVM",
        "-f", 0, 1, "-np", 1,
    )
    # fmt: on
    information = json.loads((trained.results / "inference_information.json").read_text())
    single = [f"{trainer}__{PLANS}__2d" for trainer in ("ShortVMUNet", "ShortDSVM")]
    scores = information["all_results"]
    assert sorted(scores) == sorted([*single, f"ensemble___{'___'.join(single)}___0_1"])
    assert np.isfinite(list(scores.values())).all()
    chosen = [model["trainer"] for model in information["best_model_or_ensemble"]["selected_model_or_models"]]
    best = [name for name, score in scores.items() if score == max(scores.values())]
    assert chosen in [[trainer for trainer in ("ShortVMUNet", "ShortDSVM") if trainer in name] for name in best]

    instructions = (trained.results / "inference_instructions.txt").read_text()
    commands = [line.split() for line in instructions.splitlines() if line.startswith("nnUNetv2_")]
    assert [command[command.index("-tr") + 1] for command in commands if "-tr" in command] == chosen
    for name, *arguments in commands:
        here = [str(tmp_path / a) if a.startswith("OUTPUT_FOLDER") else a for a in arguments]
        here = [str(trained.raw / "imagesTs") if a == "INPUT_FOLDER" else a for a in here]
        on_the_cpu = ["-device", "cpu", "-npp", "0", "-nps", "0"] if name == "nnUNetv2_predict" else []
        trained.command_here(name, *here, *on_the_cpu)
    assert [path.name for path in (tmp_path / "OUTPUT_FOLDER_PP").glob("*.nii.gz")] == ["case_005.nii.gz"]
