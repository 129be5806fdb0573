"""What `nnUNetv2_dsvm evaluate` refuses, and what it leaves then."""

import dataclasses
import json
from pathlib import Path

import pytest
import SimpleITK as sitk
from helpers.evaluate_command import CASES, TRAINER, refused
from helpers.evaluation_files import LABELS, DyingReader, blobs, write_folders, write_json, write_volume

import nnunetv2_dsvm
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.parallel import measure_sets
from nnunetv2_dsvm.evaluation.prediction_set import from_folders


def test_a_worker_that_dies_is_reported(tmp_path):
    reference, prediction = write_folders(tmp_path, CASES)
    (found,), problems = from_folders(reference, [prediction])
    dying = dataclasses.replace(found, reader_class=DyingReader)
    with pytest.raises(UserError, match="use fewer with -np"):
        measure_sets([dying], protocol="nnunet", tolerance_mm=1.0, processes=2, problems=problems)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "dice"}, "unknown protocol 'dice': choose one of nnunet, isic, synapse"),
        ({"tolerance_mm": -1}, "millimetres from 0, got -1"),
        ({"protocol": "isic", "tolerance_mm": 2}, "the protocol isic does not have"),
        ({"processes": 0}, "processes must be 1 or more, got 0"),
        ({"predictions": "folder"}, r"predictions takes several, in a list: \['folder'\] instead of 'folder'"),
        ({"predictions": []}, "predictions names nothing"),
    ],
)
def test_a_call_names_what_cannot_be_meant(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        nnunetv2_dsvm.evaluate(tmp_path, **{"predictions": [tmp_path], **options})


def test_all_problems_are_named_at_once_and_nothing_is_written(tmp_path, capsys):
    reference, prediction = write_folders(tmp_path, {f"case_{i}": (blobs(i), blobs(i + 50)) for i in range(6)})
    (prediction / "case_0.nii.gz").unlink()
    write_volume(prediction / "case_1.nii.gz", blobs(1, (6, 20, 23)))
    write_volume(prediction / "case_2.nii.gz", blobs(2), (2.5, 0.8, 0.9))
    write_volume(prediction / "case_3.nii.gz", blobs(3) + 7)
    (prediction / "case_4.nii.gz").write_bytes(b"no image")
    write_volume(prediction / "surplus.nii.gz", blobs(2))
    before = sorted(prediction.iterdir())
    message = refused(capsys, reference, prediction, "-np", 1)
    assert "6 problems" in message
    for part in ("case_0.nii.gz is missing", "surplus.nii.gz has no reference", "It has 23×20×6 voxels",
                 "its reference has 22×20×6 voxels", "of 0.9×0.8×2.5 mm", "of 0.7×0.8×2.5 mm",
                 "case_3.nii.gz holds 7, 8, 9", "case_4.nii.gz cannot be read"):  # fmt: skip
        assert part in message, part
    assert sorted(prediction.iterdir()) == before


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_label_maps_that_were_cut_off_are_not_measured(tmp_path, capsys, ending):
    """ITK, nnU-Net's reader, takes zeros for what is missing, without a word."""
    cases = {"a": (blobs(1), blobs(2)), "b": (blobs(3), blobs(4))}
    reference, prediction = write_folders(tmp_path, cases, file_ending=ending)
    for path in (*reference.glob("*.nii.gz"), *prediction.glob("*.nii.gz")):
        other = path.with_name(path.name.replace(".nii.gz", ending))
        sitk.WriteImage(sitk.ReadImage(str(path)), str(other))
    for path in (reference / f"a{ending}", prediction / f"b{ending}"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    message = refused(capsys, reference, prediction, "-np", 1)
    assert "2 problems" in message
    for path in (reference / f"a{ending}", prediction / f"b{ending}"):
        assert f"{path} cannot be read: " in message


def test_the_ignore_label_is_unknown_in_a_prediction_only(tmp_path, capsys):
    marked = blobs(1)
    marked[0] = 3
    labels = {**LABELS, "ignore": 3}
    reference, prediction = write_folders(tmp_path, {"a": (marked, blobs(2)), "b": (blobs(3), marked)}, labels=labels)
    message = refused(capsys, reference, prediction, "-np", 1)
    assert "1 problem," in message and f"{prediction / 'b.nii.gz'} holds 3" in message


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["reference"], "name a folder of references"),
        (["reference", "nowhere"], "no such folder"),
        (["reference", "prediction", "-tr", TRAINER], "-tr belong to -d"),
        (["-d", "905"], "needs -tr"),
        (["-d", "905", "-tr", TRAINER, "-f", "0", "0"], "named twice: 0"),
        (["reference", "prediction", "prediction"], "named twice"),
        (["reference", "prediction", "--protocol", "isic", "--tolerance-mm", "2"], "the protocol isic does not have"),
        (["prediction", "reference"], "no dataset.json in reference"),
    ],
)
def test_wrong_arguments(tmp_path, capsys, monkeypatch, arguments, part):
    write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    monkeypatch.chdir(tmp_path)
    assert part in refused(capsys, *arguments)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    (tmp_path / "file").write_text("")
    message = refused(capsys, reference, prediction, "-np", 1, "-o", tmp_path / "file")
    assert "cannot write into" in message and "cases" not in message  # said before anything is measured


def test_a_disk_that_fills_up_leaves_older_metrics(tmp_path, capsys, monkeypatch):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    old = write_json(prediction / "metrics_nnunet.json", {"old": 1})
    write_text = Path.write_text

    def fails(self, text, **options):
        if ".csv" in self.name:
            raise OSError(28, "No space left on device")
        return write_text(self, text, **options)

    monkeypatch.setattr(Path, "write_text", fails)
    assert "No space left" in refused(capsys, reference, prediction, "-np", 1)
    assert json.loads(old.read_text()) == {"old": 1} and not list(prediction.glob(".*"))
