"""Folds for which splits_final.json has no cases: nnU-Net draws a random 80:20 split of all of them."""

import json
import shutil
from types import SimpleNamespace

import pytest
from helpers.quick_nnunet import threads_for_processes
from helpers.report_models import Drawn, make_model
from helpers.tiny_dataset import PLANS
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.nnunet.folds import random_validation_cases


def by_nnunet(folder, fold, names):
    """The validation cases by nnU-Net's own method, for a preprocessed folder with a splits_final.json."""

    class Dataset:
        def __init__(self, folder, identifiers=None, folder_with_segs_from_previous_stage=None):
            self.identifiers = names

    trainer = SimpleNamespace(
        dataset_class=Dataset, preprocessed_dataset_folder="", preprocessed_dataset_folder_base=str(folder), fold=fold,
        folder_with_segs_from_previous_stage=None, print_to_log_file=lambda *_: None,
    )  # fmt: skip
    return [str(name) for name in nnUNetTrainer.do_split(trainer)[1]]


@pytest.mark.parametrize("fold, cases", [(5, 23), (6, 10), (17, 3), (1, 1)])
def test_the_rule_is_nnunets(tmp_path, fold, cases):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": [], "val": []}]))
    names = [f"Case_{i}" for i in range(cases, 0, -1)]  # not in the order of strings
    assert random_validation_cases(names, fold) == by_nnunet(tmp_path, fold, names)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A model of folds 0 and 1, which splits_final.json holds, and of fold 5."""
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / f"nnUNet_{kind}"))
    drawn = Drawn(tmp_path, cases=8, size=(24, 32)).write()
    preprocessed = tmp_path / "nnUNet_preprocessed" / drawn.name
    shutil.copytree(drawn.raw / "labelsTr", preprocessed / "gt_segmentations")
    names = [drawn.case(i) for i in range(8)]
    splits = [{"train": names[1 - fold :: 2], "val": names[fold::2]} for fold in range(2)]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    model = make_model(drawn, "nnUNetTrainerDSVM", folds=2, epochs=2, ours=False)
    make_fold(model, 5, by_nnunet(preprocessed, 5, names))
    return drawn, model


def make_fold(model, fold, cases):
    """A validation with the predictions and metrics that the other folds have of these cases."""
    validation = model / f"fold_{fold}" / "validation"
    validation.mkdir(parents=True)
    shutil.copy(model / "fold_0" / "checkpoint_final.pth", validation.parent)
    entries = []
    for other in (model / f"fold_{i}" / "validation" for i in range(2)):
        for entry in json.loads((other / "summary.json").read_text())["metric_per_case"]:
            name = entry["prediction_file"].rpartition("/")[2]
            if name.split(".")[0] in cases:
                shutil.copy(entry["prediction_file"], validation)
                entries.append({**entry, "prediction_file": str(validation / name)})
    (validation / "summary.json").write_text(json.dumps({"metric_per_case": entries}))


COMMAND = ["-d", "905", "-tr", "nnUNetTrainerDSVM"]


def evaluate(*folds):
    return main(["evaluate", *COMMAND, *(["-f", *folds] if folds else []), "-np", "1"])


def evaluated(folder):
    return [case["case"] for case in json.loads((folder / "metrics_nnunet.json").read_text())["per_case"]]


def test_it_is_evaluated(drawn, capsys):
    drawn, model = drawn
    assert evaluate("05") == 0  # nnU-Net reads a number too
    cases = evaluated(model / "fold_5" / "validation")
    assert 1 < len(cases) == len(list((model / "fold_5" / "validation").glob("*.nii.gz")))

    file = model / "fold_5" / "validation" / f"{cases[0]}.nii.gz"
    file.rename(file.with_name(f"{next(drawn.case(i) for i in range(8) if drawn.case(i) not in cases)}.nii.gz"))
    capsys.readouterr()
    assert evaluate("5") == 1
    message = capsys.readouterr().err
    assert f"{file} is missing" in message and "is not of fold 5" in message


def test_by_default_and_beside_other_folds_its_cases_do_not_count_twice(drawn, tmp_path, capsys):
    drawn, model = drawn
    assert evaluate() == 0
    assert len(evaluated(model / "crossval_results_folds_0_1")) == 8
    assert evaluate("0", "1", "5") == 1
    assert "was predicted by another fold too" in capsys.readouterr().err
    assert main(["report", *COMMAND, "-f", "0", "1", "5", "-o", str(tmp_path / "report")]) == 1
    message = capsys.readouterr().err
    assert "several of the chosen folds" in message
    assert all(path.name.split(".")[0] in message for path in (model / "fold_5" / "validation").glob("*.nii.gz"))
    assert main(["report", *COMMAND, "-o", str(tmp_path / "report")]) == 0
    assert "folds 0, 1<" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_without_splits_no_fold_is_left_out(drawn, tmp_path, capsys):
    """There may have been ten folds, where the model was trained."""
    drawn, _ = drawn
    shutil.rmtree(tmp_path / "nnUNet_preprocessed")
    assert main(["report", *COMMAND, "-o", str(tmp_path / "report")]) == 1
    assert "several of the chosen folds" in capsys.readouterr().err


def test_cases_that_came_later_change_nothing(drawn):
    """The training drew from the cases that were preprocessed, of which nnU-Net keeps a copy."""
    drawn, model = drawn
    shutil.copy(drawn.raw / "labelsTr" / f"{drawn.case(0)}.nii.gz", drawn.raw / "labelsTr" / "later.nii.gz")
    make_fold(model, "all", [drawn.case(i) for i in range(8)])
    assert evaluate("5") == 0 and evaluate("all") == 0
    assert len(evaluated(model / "fold_all" / "validation")) == 8


def test_without_splits_the_cases_are_those_that_are_there(drawn, tmp_path):
    drawn, model = drawn
    (tmp_path / "nnUNet_preprocessed" / drawn.name / "splits_final.json").unlink()
    assert evaluate("5") == 0
    assert set(evaluated(model / "fold_5" / "validation")) == {
        path.name.split(".")[0] for path in (model / "fold_5" / "validation").glob("*.nii.gz")
    }


@pytest.mark.usefixtures("one_thread", "no_pictures")
def test_a_training_of_fold_5_by_nnunets_command(copied_dataset, tmp_path, monkeypatch):
    names = [path.name.split(".")[0] for path in sorted((copied_dataset.raw / "labelsTr").iterdir())]
    splits = [{"train": names[1:], "val": names[:1]}]
    (copied_dataset.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    copied_dataset.train_here("ShortDSVM", fold=5)
    for name, value in copied_dataset.environment.items():
        monkeypatch.setenv(name, value)
    options = ["-d", "901", "-tr", "ShortDSVM", "-p", PLANS, "-f", "5"]
    with threads_for_processes():
        assert main(["evaluate", *options, "-np", "1"]) == 0
    validation = copied_dataset.results / f"ShortDSVM__{PLANS}__2d" / "fold_5" / "validation"
    assert evaluated(validation) == by_nnunet(copied_dataset.preprocessed, 5, names)
    assert main(["report", *options, "-o", str(tmp_path / "report")]) == 0
    assert not VMUNet.from_nnunet(validation.parent.parent, 5).training  # what export reads
