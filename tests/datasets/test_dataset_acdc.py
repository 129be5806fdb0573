"""`nnUNetv2_dsvm dataset acdc`: what nnU-Net's own converter writes, with the 70/10/20 split by patient."""

import gzip
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.dataset_miniatures import acdc, convert, grid, plan_and_preprocess
from helpers.litter import scatter
from nnunetv2.dataset_conversion import Dataset027_ACDC

# nnFormer's test set (its dataset JSON) and validation set (its trainer).
TEST = {2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95}
VALIDATION = {89, 90, 91, 93, 94, 96, 97, 98, 99, 100}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return acdc(tmp_path_factory.mktemp("acdc"))


def cases(patients) -> list[str]:
    return [f"patient{patient:03d}_frame{frame:02d}" for patient in sorted(patients) for frame in (1, 9)]


def stems(folder, ending) -> list[str]:
    return sorted(path.name.removesuffix(ending) for path in folder.iterdir())


def test_the_converters_files_and_the_split_by_patient(folders, source):
    assert convert("acdc", source, "-d", 27) == 0
    raw = folders / "raw" / "Dataset027_ACDC"
    training = set(range(1, 101)) - TEST - VALIDATION
    assert len(training) == 70
    for where, expected in (
        ("Tr", cases(training | VALIDATION)),
        ("Ts", cases(TEST)),
        ("Ts_challenge", cases({101, 102})),
    ):
        assert stems(raw / f"images{where}", "_0000.nii.gz") == expected
        assert stems(raw / f"labels{where}", ".nii.gz") == expected
    split = [{"train": cases(training), "val": cases(VALIDATION)}]
    for folder in (raw, folders / "preprocessed" / raw.name):
        assert json.loads((folder / "splits_final.json").read_text()) == split
    dataset_json = json.loads((raw / "dataset.json").read_text())
    assert dataset_json["labels"] == {"background": 0, "RV": 1, "MLV": 2, "LVC": 3}
    assert dataset_json["numTraining"] == 160
    assert [path.name for path in (folders / "raw").iterdir()] == [raw.name]

    check_against_the_converter(raw, source, folders)
    assert len(plan_and_preprocess(27)["spacings"]) == 160


def check_against_the_converter(ours: Path, source: Path, folders: Path) -> None:
    """The files are those that nnU-Net's converter writes."""
    for path in (source / "database").glob("*/patient*/patient*.gz"):  # without hidden files, which it copies
        target = folders / "clean" / path.relative_to(source / "database")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    with mock.patch.object(Dataset027_ACDC, "nnUNet_raw", str(folders / "converter")):  # its path object fails in 2.8.1
        Dataset027_ACDC.convert_acdc(str(folders / "clean"), 27)
    theirs = folders / "converter" / "Dataset027_ACDC"

    def files(*parts: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for part in parts for path in part.iterdir()}

    for kind in ("images", "labels"):
        assert files(ours / f"{kind}Tr", ours / f"{kind}Ts") == files(theirs / f"{kind}Tr")
    assert files(ours / "imagesTs_challenge") == files(theirs / "imagesTs")
    described = [json.loads((folder / "dataset.json").read_text()) for folder in (ours, theirs)]
    for key in ("channel_names", "labels", "file_ending"):
        assert described[0][key] == described[1][key]


@pytest.mark.parametrize(("layout", "suffix"), [
    ("training/{patient}/{name}", ".nii"),  # without testing/, as in public copies
    ("ACDC/database/Training/training/{patient}/{name}/{name}", ".NII.GZ"),
    ("{name}", ".nii.gz"),
])  # fmt: skip
def test_other_layouts(folders, source, tmp_path, layout, suffix, capsys):
    for path in (source / "database" / "training").glob("patient*/patient*_frame*.nii.gz"):
        name = path.name.removesuffix(".nii.gz")
        target = Path(f"{tmp_path}/download/{layout.format(patient=path.parent.name, name=name)}{suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".nii":
            target.write_bytes(gzip.decompress(path.read_bytes()))
        else:
            target.symlink_to(path)
    scatter(tmp_path / "download", hidden=False)
    assert convert("acdc", tmp_path / "download", "-d", 27) == 0
    assert "there is no testing/" in capsys.readouterr().out
    raw = folders / "raw" / "Dataset027_ACDC"
    assert {path.name for path in raw.iterdir() if path.is_dir()} == {"imagesTr", "imagesTs", "labelsTr", "labelsTs"}
    for part, patients in (("Tr", set(range(1, 101)) - TEST), ("Ts", TEST)):
        for ending, kind, label in (("_0000.nii.gz", "images", ""), (".nii.gz", "labels", "_gt")):
            assert stems(raw / f"{kind}{part}", ending) == cases(patients)
            case = cases(patients)[-1]
            original = source / "database" / "training" / case[: len("patient000")] / f"{case}{label}.nii.gz"
            written = raw / f"{kind}{part}" / f"{case}{ending}"
            assert gzip.decompress(written.read_bytes()) == gzip.decompress(original.read_bytes())


def test_one_cause_makes_few_lines(folders, source, tmp_path, capsys):
    download = tmp_path / "download"
    shutil.copytree(source / "database" / "training" / "patient001", download / "training" / "patient001")
    for path in (download / "training" / "patient001").glob("patient*_gt*"):
        path.unlink()
    assert convert("acdc", download, "-d", 27) == 1
    message = capsys.readouterr().err
    assert "101 problems" in message and message.count("\n  - ") == 3
    names = "training/patient003, training/patient004, training/patient005 and 95 more"
    assert f"training/patient002: has 0 frames, expected 2 (diastole and systole); likewise {names}\n" in message
    assert "patient001_frame01.nii.gz: has no label, patient001_frame01_gt.nii.gz" in message

    for path in (download / "training" / "patient001").glob("patient*"):
        path.rename(path.with_name(f"{path.name}.zip"))
    assert convert("acdc", download, "-d", 27) == 1
    message = capsys.readouterr().err
    assert len(message.strip().splitlines()) == 1 and "holds no frames patientXXX_frameYY.nii.gz" in message


def test_problems_at_once(folders, source, tmp_path, capsys):
    source = shutil.copytree(source, tmp_path / "download")
    training = source / "database" / "training"

    def path(patient: int, ending: str):
        return training / f"patient{patient:03d}" / f"patient{patient:03d}_{ending}"

    path(1, "frame01_gt.nii.gz").unlink()
    path(2, "frame09.nii.gz").unlink()
    path(3, "frame01.nii.gz").write_bytes(b"no image")
    label = np.full((2, 16, 18), 4, np.uint8)
    sitk.WriteImage(grid(label, (1.5, 1.5, 10)), str(path(4, "frame01_gt.nii.gz")))
    sitk.WriteImage(grid(label[:1] * 0, (1.5, 1.5, 10)), str(path(5, "frame01_gt.nii.gz")))
    shutil.rmtree(training / "patient006")
    shutil.copytree(training / "patient007", source / "database" / "testing" / "patient007")
    path(8, "frame01.nii.gz").rename(path(8, "frame1.nii.gz"))
    path(9, "frame01.nii.gz").rename(training / "patient010" / "patient009_frame01.nii.gz")
    assert convert("acdc", source, "-d", 27) == 1
    message = capsys.readouterr().err
    for expected in (
        "patient009_frame01.nii.gz: is in the folder of another patient",
        "patient001_frame01.nii.gz: has no label",
        "patient002: has 1 frames, expected 2",
        "patient002_frame09_gt.nii.gz: has no image",
        "patient003_frame01.nii.gz: cannot be read",
        "patient004_frame01_gt.nii.gz: has the labels 4, expected 0 to 3",
        "patient005_frame01_gt.nii.gz: lies on another grid than its image: they differ in size",
        "patient006: has 0 frames",
        "patient007_frame01: is in training and in testing",
        "patient008_frame1.nii.gz: is neither patientXXX_frameYY.nii.gz nor",
    ):
        assert expected in message, expected
    assert not (folders / "raw").exists()


def test_without_its_two_folders(folders, tmp_path, capsys):
    assert convert("acdc", tmp_path, "-d", 27) == 1
    assert "holds neither ACDC's folder training/ (beside testing/) nor folders patientXXX" in capsys.readouterr().err


def test_the_challenges_test_set_alone(folders, tmp_path, capsys):
    (tmp_path / "database" / "testing" / "patient101").mkdir(parents=True)
    assert convert("acdc", tmp_path, "-d", 27) == 1
    assert "and not training/ with the 100 patients" in capsys.readouterr().err
