"""Hidden and litter files in every folder that a command lists change nothing.

The sources of `nnUNetv2_dsvm dataset` hold litter in all of its tests (dataset_miniatures.py), the raw dataset of
`plan_and_preprocess` in test_planner.py, a model folder of `predict_new_scan.py` in test_examples_here.py.
"""

import json

import pytest
from helpers.evaluation_files import blobs, write_folders, write_volume
from helpers.litter import scatter
from helpers.report_models import Drawn, make_model

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.datasets.splits import write_grouped_splits
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import files_below, is_litter, left_by_a_system, visible_files, visible_folders
from nnunetv2_dsvm.models.trained_network import load_trained_network
from nnunetv2_dsvm.quickstart.output_folder import OutputFolder
from nnunetv2_dsvm.quickstart.result import read_cases

SYSTEMS = ("._a.nii.gz", ".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "__MACOSX", ".ipynb_checkpoints",
           "~$a.xlsx", "Icon\r", "@eaDir", "$RECYCLE.BIN",
           "System Volume Information", ".nfs0001", ".~lock.a.csv#")  # fmt: skip
HIDDEN = (".a.nii.gz", ".git", "a.nii.gz~", "a.tmp", "a.nii.gz.part", "a.partial")
OTHERS = ("a.nii.gz", "Thumbs.db.nii.gz", "desktop.nii", "a~b.png", "tmp", "$a.png", "a.tmp.png", "icon.png")


@pytest.mark.parametrize(
    ("names", "litter", "of_a_system"), [(SYSTEMS, True, True), (HIDDEN, True, False), (OTHERS, False, False)]
)
def test_names(names, litter, of_a_system):
    assert {is_litter(name) for name in names} == {litter}
    assert {left_by_a_system(name) for name in names} == {of_a_system}


def test_listings(tmp_path):
    for name in ("b.nii.gz", "a.nii.gz", "c.txt", "folder.nii.gz/d.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "lost.nii.gz").symlink_to(tmp_path / "nowhere")  # named by whoever reads it
    scatter(tmp_path)
    assert [path.name for path in visible_files(tmp_path, ".nii.gz")] == ["a.nii.gz", "b.nii.gz", "lost.nii.gz"]
    assert [path.name for path in visible_folders(tmp_path)] == ["folder.nii.gz"]
    assert [path.name for path in files_below(tmp_path)] == ["a.nii.gz", "b.nii.gz", "c.txt", "d.nii.gz", "lost.nii.gz"]
    assert visible_files(tmp_path / "none") == []


def test_evaluate_folders(tmp_path):
    reference, prediction = write_folders(tmp_path, {f"case_{i}": (blobs(i), blobs(i + 9)) for i in range(2)})
    command = ["evaluate", str(reference), str(prediction), "-np", "1"]
    assert main(command) == 0
    expected = json.loads((prediction / "metrics_nnunet.json").read_text())
    scatter(tmp_path)
    assert main(command) == 0
    assert json.loads((prediction / "metrics_nnunet.json").read_text()) == expected
    assert len(expected["per_case"]) == 2


def test_a_cross_validation_and_its_report(tmp_path, monkeypatch, capsys):
    drawn = Drawn(tmp_path, cases=4, size=(36, 48)).write()
    model = make_model(drawn, "nnUNetTrainerDSVM")
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    monkeypatch.setenv("nnUNet_results", str(drawn.results.parent))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    evaluate = ["evaluate", "-d", "905", "-tr", "nnUNetTrainerDSVM", "-f", "0", "1", "-np", "1"]
    report = ["report", "-d", "905", "-o", str(tmp_path / "report")]
    metrics = model / "crossval_results_folds_0_1" / "metrics_nnunet.json"

    def run() -> tuple[dict, list[str]]:
        assert main(evaluate) == main(report) == 0
        return json.loads(metrics.read_text()), sorted(p.name for p in visible_files(tmp_path / "report"))

    expected = run()
    assert len(expected[0]["per_case"]) == 4 and len(expected[1]) > 3
    scatter(tmp_path)
    assert run() == expected
    capsys.readouterr()
    assert main(["evaluate", "-d", "905", "-tr", "Mine", "-f", "0"]) == main([*report, "-tr", "Mine"]) == 1
    assert capsys.readouterr().err.count("nnUNetTrainerDSVM__nnUNetPlans__2d") == 2  # what is there, without litter

    for checkpoint in model.glob("fold_0/checkpoint*.pth"):
        checkpoint.unlink()
    with pytest.raises(UserError, match="it has no checkpoint$"):
        load_trained_network(model, 0)


def test_quickstart(tmp_path):
    scatter(tmp_path)
    OutputFolder(tmp_path, {"data": "x"})  # not refused as somebody's folder
    for i in range(5):
        for file in (f"imagesTr/case_{i}_0000", f"labelsTr/case_{i}", f"gt_segmentations/case_{i}"):
            write_volume(tmp_path / f"{file}.nii.gz", blobs(i, (2, 8, 8)))
    for folder in ("imagesTr", "labelsTr", "gt_segmentations"):
        scatter(tmp_path / folder)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "one": 1, "two": 2}}))
    names = [f"case_{i}" for i in range(5)]
    assert [case.name for case in read_cases(tmp_path, "Tr")] == names
    splits = json.loads(write_grouped_splits(tmp_path, str).read_text())
    assert [fold["val"] for fold in splits] == [[name] for name in names]
