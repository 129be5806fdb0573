"""`nnUNetv2_dsvm dataset synapse`: the challenge's NIfTI files and TransUNet's preprocessed ones, whole and broken."""

import gzip
import json
import shutil
import sys

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.dataset_miniatures import (
    BTCV_TEST,
    BTCV_TRAINING,
    abdomen,
    btcv,
    convert,
    grid,
    plan_and_preprocess,
    preprocessed_abdomen,
    transunet,
)
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

ORGANS = ["background", "aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach"]
# BTCV's label of each of TransUNet's labels 1 to 8, from the label list of the challenge.
BTCV_OF = (8, 4, 3, 2, 6, 11, 1, 7)


def read(path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def eight_of_thirteen(label: np.ndarray) -> np.ndarray:
    expected = np.zeros_like(label)
    for number, original in enumerate(BTCV_OF, start=1):
        expected[label == original] = number
    return expected


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def btcv_source(tmp_path_factory):
    return btcv(tmp_path_factory.mktemp("btcv"))


@pytest.fixture(scope="module")
def transunet_source(tmp_path_factory):
    return transunet(tmp_path_factory.mktemp("transunet"))


def test_nifti_with_transunets_split_and_organs(folders, btcv_source, capfd):
    assert convert("synapse", btcv_source, "-d", 5) == 0
    assert "nnUNetv2_train 5 2d all" in capfd.readouterr().out  # all 18, as the papers train
    raw = folders / "raw" / "Dataset005_Synapse"
    for where, numbers in (("Tr", BTCV_TRAINING), ("Ts", BTCV_TEST)):
        assert names(raw / f"images{where}") == [f"case{number}_0000.nii.gz" for number in numbers]
        assert names(raw / f"labels{where}") == [f"case{number}.nii.gz" for number in numbers]
    for number, where in (("0005", "Tr"), ("0038", "Ts")):
        hu, label = abdomen(int(number), 13)
        np.testing.assert_array_equal(read(raw / f"images{where}" / f"case{number}_0000.nii.gz"), hu)
        path = raw / f"labels{where}" / f"case{number}.nii.gz"
        np.testing.assert_array_equal(read(path), eight_of_thirteen(label))
        assert set(np.unique(read(path))) == set(range(9))
        written, expected = sitk.ReadImage(str(path)), grid(label)
        for fact in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(written, fact)(), getattr(expected, fact)(), atol=1e-5)
    assert list(json.loads((raw / "dataset.json").read_text())["labels"]) == ORGANS

    assert len(plan_and_preprocess(5)["spacings"]) == 18
    plans = json.loads((folders / "preprocessed" / raw.name / "nnUNetPlans.json").read_text())
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["CTNormalization"]


def test_nifti_problems_at_once(folders, btcv_source, tmp_path, capsys):
    source = shutil.copytree(btcv_source, tmp_path / "download")
    images, labels = (source / "averaged-training-images" / name for name in ("img", "label"))
    (labels / "label0005.nii.gz").unlink()
    (images / "img0001.nii.gz").unlink()
    whole = (images / "img0006.nii.gz").read_bytes()
    (images / "img0006.nii.gz").write_bytes(whole[: len(whole) // 2])
    hu, label = abdomen(7, 13)
    label[0, 0, 0] = 14
    sitk.WriteImage(grid(label), str(labels / "label0007.nii.gz"))
    sitk.WriteImage(grid(abdomen(9, 13)[1][1:]), str(labels / "label0009.nii.gz"))
    sitk.WriteImage(grid(abdomen(10, 13)[1], (0.8, 0.8, 5.0)), str(labels / "label0010.nii.gz"))
    moved, turned = grid(abdomen(25, 13)[1]), grid(abdomen(26, 13)[1])
    moved.SetOrigin((0, 0, 500))
    turned.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(moved, str(labels / "label0025.nii.gz"))
    sitk.WriteImage(turned, str(labels / "label0026.nii.gz"))
    not_numbers = abdomen(21, 13)[0].astype(np.float32)
    not_numbers[0, 0, 0] = np.nan
    sitk.WriteImage(grid(not_numbers), str(images / "img0021.nii.gz"))
    sitk.WriteImage(grid(hu), str(images / "img0022.nii"))
    (images / "img0023.nii.gz").unlink()
    sitk.WriteImage(grid(hu), str(images / "img0023.nii"))
    (images / "img0023.nii").write_bytes((images / "img0023.nii").read_bytes()[:-100])
    sitk.WriteImage(grid(hu), str(images / "scan0024.nii.gz"))
    header = bytearray(gzip.decompress((labels / "label0024.nii.gz").read_bytes()))
    header[70:72] = b"\xff\x7f"  # no data type has this number
    (labels / "label0024.nii.gz").write_bytes(gzip.compress(bytes(header)))
    assert convert("synapse", source, "-d", 5) == 1
    message = capsys.readouterr().err
    for expected in (
        "13 problems",
        "label/label0005.nii.gz: is missing",
        "img/img0001.nii.gz: is missing",
        "img/img0006.nii.gz: cannot be read",
        "img/img0023.nii: cannot be read: it ends after 4092 of 4192 bytes",
        "label/label0007.nii.gz: has the labels 14, expected 0 to 13",
        "label/label0009.nii.gz: lies on another grid than its image: they differ in size",
        "label/label0010.nii.gz: lies on another grid than its image: they differ in spacing. ",
        "label/label0025.nii.gz: lies on another grid than its image: they differ in origin. ",
        "label/label0026.nii.gz: lies on another grid than its image: they differ in direction. ",
        "img/img0021.nii.gz: has values that are not numbers",
        "has the same number as img0022.nii",
        "scan0024.nii.gz: is not named imgXXXX.nii.gz",
        "label/label0024.nii.gz: cannot be read: data code 32767 not recognized",
    ):
        assert expected in message, expected
    assert not (folders / "raw").exists()


def test_averaged_volumes_which_the_split_does_not_know(folders, tmp_path, capsys):
    for kind, ending in (("images", "_avg"), ("labels", "_avg_seg")):
        folder = tmp_path / f"averaged-training-{kind}"
        folder.mkdir()
        sitk.WriteImage(grid(abdomen(1, 13)[0]), str(folder / f"DET0000101{ending}.nii.gz"))
    assert convert("synapse", tmp_path, "-d", 5) == 1
    assert "Take RawData.zip from the same place" in capsys.readouterr().err
    assert not (folders / "raw").exists()


def test_preprocessed_slices_become_volumes(folders, transunet_source, capfd):
    assert convert("synapse", transunet_source, "-d", 6) == 0
    raw = folders / "raw" / "Dataset006_Synapse"
    assert names(raw / "labelsTr") == [f"case{number}.nii.gz" for number in BTCV_TRAINING[:6]]
    assert names(raw / "labelsTs") == [f"case{number}.nii.gz" for number in BTCV_TEST[:2]]
    for number, where in ((BTCV_TRAINING[0], "Tr"), (BTCV_TEST[1], "Ts")):
        image, label = preprocessed_abdomen(int(number), 8)
        np.testing.assert_array_equal(read(raw / f"images{where}" / f"case{number}_0000.nii.gz"), image)
        np.testing.assert_array_equal(read(raw / f"labels{where}" / f"case{number}.nii.gz"), label)
    assert list(json.loads((raw / "dataset.json").read_text())["labels"]) == ORGANS

    plan_and_preprocess(6)
    preprocessed = folders / "preprocessed" / raw.name
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["NoNormalization"]
    data = str(preprocessed / "nnUNetPlans_2d")
    array, *_ = infer_dataset_class(data)(data).load_case(f"case{BTCV_TRAINING[0]}")
    image, _ = preprocessed_abdomen(int(BTCV_TRAINING[0]), 8)
    np.testing.assert_allclose(np.asarray(array)[0], image, atol=1e-6)  # as they were: neither cut nor scaled


def test_preprocessed_with_all_thirteen_organs(folders, tmp_path, capsys):
    assert convert("synapse", transunet(tmp_path / "cascade", labels=13), "-d", 6) == 0
    label = read(folders / "raw" / "Dataset006_Synapse" / "labelsTs" / "case0001.nii.gz")
    np.testing.assert_array_equal(label, eight_of_thirteen(abdomen(1, 13)[1]))
    assert "BTCV's numbers" in capsys.readouterr().out


def test_preprocessed_problems_at_once(folders, transunet_source, tmp_path, capsys):
    source = shutil.copytree(transunet_source, tmp_path / "download")
    slices = source / "train_npz"
    image, label = (array[0] for array in preprocessed_abdomen(5, 8))
    (slices / "case0005_slice001.npz").unlink()
    (slices / "case0006_slice000.npz").write_bytes((slices / "case0006_slice000.npz").read_bytes()[:500])
    np.savez(slices / "case0006_slice001.npz", image=image)
    np.savez(slices / "case0006_slice002.npz", image=image, label=label[1:])
    np.savez(slices / "case0006_slice003.npz", image=image * 400 - 125, label=label)
    np.savez(slices / "case0007_slice000.npz", image=image, label=label + 0.5)
    np.savez(slices / "case0007_slice001.npz", image=image[:, 2:], label=label[:, 2:])
    lists = source / "lists_Synapse" / "lists_Synapse"
    with open(lists / "train.txt", "a") as file:
        file.write("case0001_slice000\ncase0009_slice000\n")
    np.savez(slices / "case0001_slice000.npz", image=image, label=label)
    (source / "test_vol_h5" / "case0002.npy.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with h5py.File(source / "test_vol_h5" / "case0001.npy.h5", "w") as file:
        file.create_group("image")
        file.create_group("label")
    with open(slices / "case0007_slice002.npz", "wb") as file:
        np.save(file, image)
    np.savez(slices / "case0007_slice003.npz", image=image, label=label.astype(str))
    assert convert("synapse", source, "-d", 6) == 1
    message = capsys.readouterr().err
    for expected in (
        "train_npz/case0005_slice001.npz: is missing, but in train.txt",
        "case0005: lacks the slices 001",
        "train_npz/case0006_slice000.npz: cannot be read",
        "train_npz/case0006_slice001.npz: cannot be read: 'label is not a file in the archive'",
        "train_npz/case0006_slice002.npz: has an image (20, 24) and a label (19, 24)",
        "train_npz/case0006_slice003.npz: has intensities from",
        "train_npz/case0007_slice000.npz: holds values that are no labels: 0.5 in",
        "case0007 has slices of different sizes",
        "case0001 is in train.txt too",
        "case0009_slice000 is listed more than once",
        "test_vol_h5/case0002.npy.h5: cannot be read",
        "test_vol_h5/case0001.npy.h5: cannot be read",
        "train_npz/case0007_slice002.npz: cannot be read",
        "train_npz/case0007_slice003.npz: cannot be read: image and label hold",
    ):
        assert expected in message, expected
    assert not (folders / "raw").exists()


def test_preprocessed_without_its_lists_or_h5py(folders, transunet_source, tmp_path, capsys, monkeypatch):
    source = shutil.copytree(transunet_source, tmp_path / "download")
    shutil.rmtree(source / "lists_Synapse")
    assert convert("synapse", source, "-d", 6) == 1
    assert "lists_Synapse/train.txt: is missing" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert convert("synapse", transunet_source, "-d", 6) == 1
    assert "pip install 'nnunetv2_dsvm[datasets]'" in capsys.readouterr().err


def test_values_a_little_beyond_the_unit_interval_are_kept(folders, transunet_source, tmp_path, capsys):
    source = shutil.copytree(transunet_source, tmp_path / "download")
    with h5py.File(source / "test_vol_h5" / "case0001.npy.h5", "a") as file:
        file["image"][0, 0, 0] = 1.16
    assert convert("synapse", source, "-d", 6) == 0
    assert "intensities go from 0.00 to 1.16" in capsys.readouterr().out
    image = read(folders / "raw" / "Dataset006_Synapse" / "imagesTs" / "case0001_0000.nii.gz")
    assert image[0, 0, 0] == np.float32(1.16)


def test_neither_or_both_layouts(folders, btcv_source, transunet_source, tmp_path, capsys):
    assert convert("synapse", tmp_path, "-d", 6) == 1
    assert "neither img/ and label/" in capsys.readouterr().err
    both = shutil.copytree(transunet_source, tmp_path / "both")
    shutil.copytree(btcv_source / "averaged-training-images", both / "RawData" / "Training")
    assert convert("synapse", both, "-d", 6) == 1
    assert "holds the data more than once (RawData/Training/img, train_npz)" in capsys.readouterr().err


def test_folders_one_deeper_and_uncompressed_files(folders, btcv_source, transunet_source, tmp_path):
    """As archives are unpacked, each into a folder of its own."""
    for name in ("img", "label"):
        inner = tmp_path / "nifti" / "RawData" / "RawData" / "Training" / name / name
        inner.mkdir(parents=True)
        for path in (btcv_source / "averaged-training-images" / name).glob(f"{name}*.nii.gz"):
            (inner / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
    inner = tmp_path / "preprocessed" / "Synapse"
    for name in ("train_npz", "test_vol_h5"):
        shutil.copytree(transunet_source / name, inner / name / name)
    shutil.copytree(transunet_source / "lists_Synapse", inner / "lists_Synapse")
    for source, dataset_id, numbers in (("nifti", 5, [18, 12]), ("preprocessed", 6, [6, 2])):
        assert convert("synapse", tmp_path / source, "-d", dataset_id) == 0
        raw = folders / "raw" / f"Dataset{dataset_id:03d}_Synapse"
        assert [len(list((raw / part).iterdir())) for part in ("imagesTr", "imagesTs")] == numbers


def test_no_files_of_a_kind_make_one_sentence(folders, btcv_source, tmp_path, capsys):
    source = shutil.copytree(btcv_source, tmp_path / "download")
    for path in (source / "averaged-training-images" / "img").glob("img*"):
        path.rename(path.with_name(f"{path.name}.zip"))
    assert convert("synapse", source, "-d", 5) == 1
    message = capsys.readouterr().err.strip()
    assert "img holds no imgXXXX.nii.gz or .nii. It holds img0001.nii.gz.zip" in message and "\n" not in message
