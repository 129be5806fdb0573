"""`nnUNetv2_dsvm evaluate` of cross-validations in nnU-Net's results folder."""

import pytest
from helpers.evaluate_command import DATASET, OTHER, TRAINER, evaluate, read, refused, written
from helpers.evaluation_files import blobs, dataset_json, plans_json, write_json, write_volume
from helpers.examples_in_docstrings import run_example
from medpy.metric import binary

import nnunetv2_dsvm
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.folds import named_folds


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Two trained models of two folds with two cases each, in nnU-Net's folders."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, folder in folders.items():
        monkeypatch.setenv(name, str(folder))
    cases = {f"case_{i}": (blobs(i), blobs(i + 100)) for i in range(4)}
    splits = [{"train": ["case_2", "case_3"], "val": ["case_0", "case_1"]},
              {"train": ["case_0", "case_1"], "val": ["case_2", "case_3"]}]  # fmt: skip
    write_json(folders["nnUNet_preprocessed"] / DATASET / "splits_final.json", splits)
    for case, (reference, _) in cases.items():
        write_volume(folders["nnUNet_preprocessed"] / DATASET / "gt_segmentations" / f"{case}.nii.gz", reference)
    for trainer in (TRAINER, OTHER):
        model = folders["nnUNet_results"] / DATASET / f"{trainer}__nnUNetPlans__2d"
        write_json(model / "dataset.json", dataset_json())
        write_json(model / "plans.json", plans_json())
        for fold, split in enumerate(splits):
            for case in split["val"]:
                write_volume(model / f"fold_{fold}" / "validation" / f"{case}.nii.gz", cases[case][1])
            write_json(model / f"fold_{fold}" / "validation" / "summary.json", {})
    return folders["nnUNet_results"] / DATASET, cases


def test_a_cross_validation(trained):
    results, cases = trained
    model = results / f"{TRAINER}__nnUNetPlans__2d"
    assert evaluate("-d", 905, "-tr", TRAINER, "-p", "nnUNetPlans", "-c", "2d", "-f", 0, 1, "-np", 1) == 0
    written = read(model / "crossval_results_folds_0_1")
    assert [case["case"] for case in written["per_case"]] == sorted(cases)
    for case in written["per_case"]:
        truth, said = cases[case["case"]]
        assert case["values"]["vessel"]["Dice"] == pytest.approx(binary.dc(said == 2, truth == 2))
    assert evaluate("-d", DATASET, "-tr", TRAINER, "-f", 1, "-np", 1) == 0
    assert [case["case"] for case in read(model / "fold_1" / "validation")["per_case"]] == ["case_2", "case_3"]


def test_the_folds_are_by_default_those_of_the_splits_else_nnunets_five(trained, tmp_path, capsys):
    results, cases = trained
    assert evaluate("-d", 905, "-tr", TRAINER, "-np", 1) == 0
    together = results / f"{TRAINER}__nnUNetPlans__2d" / "crossval_results_folds_0_1"
    assert len(read(together)["per_case"]) == len(cases)
    (tmp_path / "nnUNet_preprocessed" / DATASET / "splits_final.json").unlink()
    assert "nnUNetv2_train 905 2d 4 " in refused(capsys, "-d", 905, "-tr", TRAINER, "-np", 1)


def test_two_trainers_are_compared(trained):
    results, _ = trained
    assert evaluate("-d", 905, "-tr", TRAINER, OTHER, "-f", 0, 1, "-np", 1) == 0
    folder = results / f"{TRAINER}__nnUNetPlans__2d" / "crossval_results_folds_0_1"
    assert read(folder, "comparison_nnunet")["models"] == [TRAINER, OTHER]


def test_a_call_measures_a_cross_validation(trained):
    results, _ = trained
    run_example(nnunetv2_dsvm.evaluate_cross_validation)
    folder = results / f"{TRAINER}__nnUNetPlans__2d" / "crossval_results_folds_0_1"
    by_call = written(folder)
    for path in by_call:
        (folder / path).unlink()
    assert evaluate("-d", 905, "-tr", TRAINER, "-f", 0, 1, "-np", 1) == 0
    assert written(folder) == by_call and len(by_call) == 2


def test_folds_may_be_numbers_and_are_a_list():
    assert named_folds([1, 0]) == named_folds(["1", "00"]) == ["0", "1"] and named_folds(["all"]) == ["all"]
    for wrong in ("01", []):
        with pytest.raises(UserError, match="folds takes several|folds names nothing"):
            named_folds(wrong)


def test_what_is_not_trained_is_named(trained, capsys):
    message = refused(capsys, "-d", 905, "-tr", TRAINER, "nnUNetTrainerNone", "-np", 1, "-f", *"01234")
    for fold in (2, 3, 4):
        command = f"nnUNetv2_train 905 2d {fold} -tr {TRAINER} -p nnUNetPlans"
        assert f"fold {fold} of {TRAINER}__nnUNetPlans__2d was never trained; train it with {command}\n" in message
    assert "--c" not in message
    assert "has a validation of fold 0, 1: name them with -f" in message
    assert "no trained model" in message and OTHER in message
    assert "no dataset 77" in refused(capsys, "-d", 77, "-tr", TRAINER)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ([], "was never trained; train it with {}"),
        (["training_log_2026_1_1_10_00_00.txt"], "was begun but has left no checkpoint; train it again with {}"),
        (["checkpoint_best.pth", "checkpoint_latest.pth"],
         "is not trained to its end (checkpoint_latest.pth); finish it with {} --c"),
        (["checkpoint_best.pth", "checkpoint_final.pth"], "has no finished validation; make it with {} --val"),
    ],
)  # fmt: skip
def test_what_a_fold_lacks_is_said_with_the_command_that_makes_it(trained, tmp_path, capsys, left, said):
    results, _ = trained
    fold = results / f"{TRAINER}__nnUNetPlans__2d" / "fold_2"
    fold.mkdir()
    for name in left:
        (fold / name).write_text("")
    command = f"nnUNetv2_train {{}} 2d 2 -tr {TRAINER} -p nnUNetPlans"
    expected = f"fold 2 of {TRAINER}__nnUNetPlans__2d {said}"
    message = refused(capsys, "-d", 905, "-tr", TRAINER, "-np", 1, "-f", *"012")
    assert f"{expected.format(command.format(905))}\n" in message
    assert main(["report", "-d", "905", "-tr", TRAINER, "-f", "2", "-o", str(tmp_path / "report")]) == 1
    assert expected.format(command.format(DATASET)) in capsys.readouterr().err


def test_a_fold_with_missing_or_alien_cases_is_refused(trained, capsys):
    results, _cases = trained
    validation = results / f"{TRAINER}__nnUNetPlans__2d" / "fold_0" / "validation"
    (validation / "case_1.nii.gz").rename(validation / "case_3.nii.gz")
    message = refused(capsys, "-d", 905, "-tr", TRAINER, "-f", 0, 1, "-np", 1)
    assert f"{validation / 'case_1.nii.gz'} is missing" in message
    assert "case_3.nii.gz is not of fold 0" in message and "has left no checkpoint" in message
    assert not list(results.rglob("metrics_*"))
    (validation.parent / "checkpoint_final.pth").touch()
    message = refused(capsys, "-d", 905, "-tr", TRAINER, "-f", 0, "-np", 1)
    assert "fold 0 of" in message and f"nnUNetv2_train 905 2d 0 -tr {TRAINER} -p nnUNetPlans --val" in message
