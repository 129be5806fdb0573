"""`nnUNetv2_dsvm dataset acdc`: nnU-Net's own converter, with the 70/10/20 split by patient."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from dataset_miniatures import acdc, convert, grid, plan_and_preprocess
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
    before = Dataset027_ACDC.nnUNet_raw
    assert convert("acdc", source, "-d", 27) == 0
    assert Dataset027_ACDC.nnUNet_raw is before
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
    name = "patient002_frame09"
    original = source / "database" / "training" / "patient002" / f"{name}_gt.nii.gz"
    assert (raw / "labelsTs" / f"{name}.nii.gz").read_bytes() == original.read_bytes()
    assert [path.name for path in (folders / "raw").iterdir()] == [raw.name]

    assert len(plan_and_preprocess(27)["spacings"]) == 160


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
    for hidden in ("._patient009_frame01.nii.gz", "._patient009_frame01_gt.nii.gz"):  # of macOS, in archives
        (training / "patient009" / hidden).write_bytes(b"AppleDouble")
    assert convert("acdc", source, "-d", 27) == 1
    message = capsys.readouterr().err
    for expected in (
        "._patient009_frame01.nii.gz: is a hidden file, which nnU-Net's converter would copy: remove it",
        "._patient009_frame01_gt.nii.gz: is a hidden file",
        "patient001_frame01.nii.gz: has no label",
        "patient002: has 1 frames, expected 2",
        "patient002_frame09_gt.nii.gz: has no image",
        "patient003_frame01.nii.gz: cannot be read",
        "patient004_frame01_gt.nii.gz: has the labels 4, expected 0 to 3",
        "patient005_frame01_gt.nii.gz: lies on another grid than its image: they differ in size",
        "patient006: has 0 frames",
        "patient007_frame01: is in training and in testing",
        "patient008_frame1.nii.gz: is not patient008_frameYY.nii.gz",
    ):
        assert expected in message, expected
    assert not (folders / "raw").exists()


def test_without_its_two_folders(folders, tmp_path, capsys):
    assert convert("acdc", tmp_path, "-d", 27) == 1
    assert "does not hold ACDC's folders training/ and testing/" in capsys.readouterr().err
