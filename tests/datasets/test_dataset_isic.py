"""`nnUNetv2_dsvm dataset isic2017|isic2018`: the challenge's folders and VM-UNet's, whole and broken."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.dataset_miniatures import convert, isic_official, isic_seven_to_three, lesion, plan_and_preprocess, tree
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from PIL import Image


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def splits(folder: Path) -> list:
    return json.loads((folder / "splits_final.json").read_text())


@pytest.mark.parametrize("year", [2017, 2018])
def test_the_challenges_folders(folders, year):
    source = isic_official(folders / "download", year)
    before = tree(source)
    assert convert(f"isic{year}", source, "-d", 17) == 0
    raw = folders / "raw" / f"Dataset017_ISIC{year}"
    assert tree(source) == before
    assert [path.name for path in (folders / "raw").iterdir()] == [raw.name]

    names = [f"ISIC_{number:07d}" for number in range(9)]
    for where, part in (("Tr", names[:7]), ("Ts", names[7:])):
        assert sorted(p.name for p in (raw / f"images{where}").iterdir()) == [f"{name}_0000.png" for name in part]
        assert sorted(p.name for p in (raw / f"labels{where}").iterdir()) == [f"{name}.png" for name in part]
    for number, name in enumerate(names):
        where = "Tr" if number < 7 else "Ts"
        image, mask = lesion(number)
        np.testing.assert_array_equal(pixels(raw / f"labels{where}" / f"{name}.png"), mask // 255)
        converted = pixels(raw / f"images{where}" / f"{name}_0000.png").astype(int)
        assert converted.shape == image.shape
        assert np.abs(converted - image).mean() < 12  # what JPEG loses
        assert converted[..., 0].mean() > converted[..., 2].mean() + 20  # red first
    expected = [{"train": names[:5], "val": names[5:7]}]
    assert splits(raw) == splits(folders / "preprocessed" / raw.name) == expected


def test_seven_to_three_is_fold_0_and_resized_to_256(folders, capfd):
    source = isic_seven_to_three(folders / "isic18")
    assert convert("isic2018", source, "-d", 18, "--resize", 256) == 0
    raw = folders / "raw" / "Dataset018_ISIC2018"
    names = [f"ISIC_{number:07d}" for number in range(8)]
    assert splits(raw) == [{"train": names[:5], "val": names[5:]}]
    assert not (raw / "imagesTs").exists()
    for number, name in enumerate(names):
        image, mask = lesion(number)
        resized, label = pixels(raw / "imagesTr" / f"{name}_0000.png"), pixels(raw / "labelsTr" / f"{name}.png")
        assert resized.shape == (256, 256, 3) and label.shape == (256, 256)
        # The nearest neighbour of each new pixel's centre, by hand.
        rows, columns = (((np.arange(256) + 0.5) * n / 256).astype(int) for n in mask.shape)
        np.testing.assert_array_equal(label, mask[np.ix_(rows, columns)] // 255)
        assert abs(resized.mean() - image.mean()) < 1
    assert "nnUNetv2_train 18 2d 0" in capfd.readouterr().out

    fingerprint = plan_and_preprocess(18)
    assert [tuple(shape) for shape in fingerprint["shapes_after_crop"]] == [(1, 256, 256)] * 8
    preprocessed = folders / "preprocessed" / raw.name
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["ZScoreNormalization"] * 3
    assert plans["image_reader_writer"] == "NaturalImage2DIO"
    data = preprocessed / "nnUNetPlans_2d"
    array, label, *_ = infer_dataset_class(str(data))(str(data)).load_case(names[0])
    assert array.shape == (3, 1, 256, 256)
    np.testing.assert_allclose(np.asarray(array).mean((1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(label)[0, 0], pixels(raw / "labelsTr" / f"{names[0]}.png"))
    assert splits(preprocessed) == splits(raw)


def test_all_problems_at_once_and_nothing_written(folders, capsys):
    source = isic_official(folders / "download", 2017)
    images, masks = source / "ISIC-2017_Training_Data", source / "ISIC-2017_Training_Part1_GroundTruth"
    (masks / "ISIC_0000000_segmentation.png").unlink()
    (images / "ISIC_0000001.jpg").write_bytes((images / "ISIC_0000001.jpg").read_bytes()[:900])
    Image.fromarray(np.full((44, 60), 7, np.uint8)).save(masks / "ISIC_0000002_segmentation.png")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(masks / "ISIC_0000003_segmentation.png")
    shutil.copy(images / "ISIC_0000004.jpg", images / "ISIC_0000004.jpeg")
    test = source / "ISIC-2017_Test_v2_Data"
    shutil.copy(images / "ISIC_0000004.jpg", test)
    shutil.copy(masks / "ISIC_0000004_segmentation.png", source / "ISIC-2017_Test_v2_Part1_GroundTruth")
    (masks / "ISIC_9999999_segmentation.png").write_bytes(b"no picture")

    assert convert("isic2017", source, "-d", 17) == 1
    message = capsys.readouterr().err
    for expected in (
        "7 problems",
        "ISIC-2017_Training_Data/ISIC_0000000.jpg: has no mask",
        "ISIC-2017_Training_Data/ISIC_0000001.jpg: cannot be read",
        "ISIC_0000002_segmentation.png: has the values 7, expected 0 and 255",
        "ISIC_0000003_segmentation.png: is 60×40 pixels, its image 60×44",
        "has the same id as ISIC_0000004.j",
        "ISIC-2017_Test_v2_Data/ISIC_0000004.jpg: has the same id as ISIC-2017_Training_Data",
        "ISIC_9999999_segmentation.png: has no image",
    ):
        assert expected in message
    assert not (folders / "raw").exists() and not (folders / "preprocessed").exists()


def test_folders_one_deeper_and_upper_case_endings(folders, capsys):
    source = isic_official(folders / "download" / "ISIC 2018", 2018, counts=(5, 1, 1))
    for folder in list(source.glob("ISIC2018*")):
        for path in folder.glob("ISIC_*"):
            path.rename(path.with_suffix(path.suffix.upper()))
        folder.rename(source / "twice")
        folder.mkdir()
        (source / "twice").rename(folder / folder.name)
    assert convert("isic2018", folders / "download", "-d", 18) == 0
    raw = folders / "raw" / "Dataset018_ISIC2018"
    assert [len(list((raw / name).iterdir())) for name in ("imagesTr", "labelsTr", "imagesTs")] == [6, 6, 1]


def test_a_dataset_that_is_in_nnunets_format_already(folders, capsys):
    (folders / "download" / "imagesTr").mkdir(parents=True)
    (folders / "download" / "dataset.json").write_text("{}")
    for dataset in ("isic2018", "synapse", "acdc"):
        assert convert(dataset, folders / "download", "-d", 18) == 1
        assert "is a dataset in nnU-Net's format already" in capsys.readouterr().err


def test_training_alone_has_nnunets_five_folds_and_a_missing_truth_of_the_test_is_said(folders, capsys):
    source = isic_official(folders / "download", 2018)
    for name in ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth",
                 "ISIC2018_Task1_Test_GroundTruth"):  # fmt: skip
        shutil.rmtree(source / name)
    inner = source / "ISIC2018_Task1-2_Training_Input"  # unpacked into a folder of the archive's name
    (source / "x").mkdir()
    inner.rename(source / "x" / inner.name)
    (source / "x").rename(inner)
    assert convert("isic2018", source, "-d", 18) == 0
    raw = folders / "raw" / "Dataset018_ISIC2018"
    assert len(list((raw / "imagesTr").iterdir())) == 5 and len(list((raw / "imagesTs").iterdir())) == 2
    assert not (raw / "labelsTs").exists() and not (raw / "splits_final.json").exists()
    output = capsys.readouterr().out
    assert "no ground truth of the test set" in output and "no validation set" in output


@pytest.mark.parametrize("missing", ["ISIC-2017_Training_Part1_GroundTruth", "ISIC-2017_Validation_Part1_GroundTruth"])
def test_a_missing_folder_is_a_problem(folders, capsys, missing):
    source = isic_official(folders / "download", 2017)
    shutil.rmtree(source / missing)
    assert convert("isic2017", source, "-d", 17) == 1
    assert f"{missing}: is missing" in capsys.readouterr().err


def test_a_folder_that_is_something_else(folders, capsys):
    source = isic_official(folders / "download", 2017)
    assert convert("isic2018", source, "-d", 18) == 1
    message = capsys.readouterr().err
    assert "ISIC2018_Task1-2_Training_Input" in message and "It holds ISIC-2017_Test_v2_Data" in message
    assert convert("isic2018", folders / "nowhere", "-d", 18) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert convert("isic2018", source / "ISIC-2017_Training_Data" / "ISIC_0000000.jpg", "-d", 18) == 1
    assert "is a file; unpack the archive" in capsys.readouterr().err


def test_grey_masks_only_where_they_are_asked_for(folders, capsys):
    source = isic_seven_to_three(folders / "isic18")
    path = source / "train" / "masks" / "ISIC_0000000.png"
    grey = pixels(path).copy()
    grey[0, :3] = 100, 127, 128
    Image.fromarray(grey).save(path)
    assert convert("isic2018", source, "-d", 18) == 1
    assert "has the values 100, 127, 128" in capsys.readouterr().err
    assert convert("isic2018", source, "-d", 18, "--threshold-masks") == 0
    label = pixels(folders / "raw" / "Dataset018_ISIC2018" / "labelsTr" / path.name)
    assert label[0, :3].tolist() == [0, 0, 1] and set(np.unique(label)) == {0, 1}


@pytest.mark.parametrize("option", [[], ["--threshold-masks"]], ids=["exact", "threshold"])
def test_a_nearly_black_mask_among_masks_of_255(folders, capsys, option):
    """Smoothed masks may hold nothing but a few ones: they are not lesion because nothing in that file is brighter."""
    source = isic_seven_to_three(folders / "isic18")
    path = source / "val" / "masks" / "ISIC_0000006.png"
    black = np.zeros((44, 60), np.uint8)
    black[5, 5] = 1
    Image.fromarray(black).save(path)
    status = convert("isic2018", source, "-d", 18, *option)
    if option:
        assert status == 0
        assert not pixels(folders / "raw" / "Dataset018_ISIC2018" / "labelsTr" / path.name).any()
    else:
        assert status == 1 and f"{path.name}: has the values 0 and 1, but other" in capsys.readouterr().err


def test_masks_of_0_and_1(folders, capsys):
    source = isic_seven_to_three(folders / "isic18")
    masks = {path.name: pixels(path) // 255 for path in source.glob("*/masks/ISIC_*.png")}
    for path in source.glob("*/masks/ISIC_*.png"):
        Image.fromarray(masks[path.name]).save(path)
    assert convert("isic2018", source, "-d", 18, "--threshold-masks") == 1
    assert "masks: none has a value from 128 on" in capsys.readouterr().err
    assert convert("isic2018", source, "-d", 18) == 0
    for name, mask in masks.items():
        np.testing.assert_array_equal(pixels(folders / "raw" / "Dataset018_ISIC2018" / "labelsTr" / name), mask)


def test_pictures_of_16_bits_are_refused(folders, capsys):
    source = isic_seven_to_three(folders / "isic18")
    path = source / "train" / "masks" / "ISIC_0000001.png"
    Image.fromarray(pixels(path).astype(np.uint16) * 257).save(path)
    assert convert("isic2018", source, "-d", 18) == 1
    assert f"{path.name}: cannot be read: it has more than 8 bits" in capsys.readouterr().err
