"""From files of each format, and of one to four channels, to label maps: every step by nnU-Net's own functions."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.image_formats import ORIGIN_MM, ImageFormat
from helpers.short_trainers import FoundAgain, predictor_of, probabilities_by_hand, train_one_epoch, z_score
from helpers.tiny_dataset import SHAPE, plan_and_preprocess_here, tiny_case, write_raw_dataset

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

SPACING_MM = (0.8, 1.2, 4.0)
COLOURS = ("rgb_to_0_1",) * 3


def check_format(dataset, make_on, file_format, images):
    """Trains on a dataset and predicts its test case, whose normalised images are given, from file to file."""
    plan_and_preprocess_here(dataset, patch_size=SHAPE[1:])  # one tile: the prediction of the slice
    assert dataset.load_plans()["image_reader_writer"] == file_format.reader
    trainer = train_one_epoch(make_on(dataset, FoundAgain))
    assert next(trainer.dataloader_train)["data"].shape == (2, len(images), *SHAPE[1:])
    predicted = dataset.root / "predicted"
    predicted.mkdir()
    predictor = predictor_of(trainer)
    predictor.use_gaussian = False  # whose small values at the corners round in half precision
    predictor.predict_from_files_sequential(str(dataset.raw / "imagesTs"), str(predicted), True)
    expected = probabilities_by_hand(trainer, images)
    probabilities = np.load(predicted / "case_005.npz")["probabilities"]
    np.testing.assert_allclose(probabilities, expected, atol=0.005)  # nnU-Net keeps logits in half precision
    assert np.ptp(expected, axis=(1, 2, 3)).max() > 0.2, "an even prediction would fit any image"
    np.testing.assert_array_equal(file_format.read_labels(predicted / "case_005"), probabilities.argmax(0))
    return predicted


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_from_raw_files_to_a_label_map(new_dataset, make_on, channels):
    write_raw_dataset(new_dataset, channels=channels, channel_names=("MR",) * 4)
    check_format(new_dataset, make_on, ImageFormat(), [z_score(image) for image in tiny_case(5, channels)[0]])


@pytest.mark.parametrize(
    "reader, flat, slices",
    [
        ("SimpleITKIO", False, SHAPE[0]),
        ("SimpleITKIO", True, 1),
        ("NibabelIO", False, SHAPE[0]),
        ("NibabelIO", False, 1),
    ],
    ids=["3D", "2D", "3D-nibabel", "one-slice-nibabel"],
)
def test_nifti(new_dataset, make_on, reader, flat, slices):
    file_format = ImageFormat(reader, flat=flat)
    write_raw_dataset(new_dataset, file_format=file_format, slices=slices, spacing_mm=SPACING_MM)
    predicted = check_format(new_dataset, make_on, file_format, [z_score(tiny_case(5, 1)[0][0][:slices])])
    image = sitk.ReadImage(str(predicted / "case_005.nii.gz"))
    dimension = 2 if flat else 3
    np.testing.assert_allclose(image.GetSpacing(), SPACING_MM[:dimension])
    np.testing.assert_allclose(image.GetOrigin(), ORIGIN_MM[:dimension])


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_rgb_images(new_dataset, make_on, ending):
    file_format = ImageFormat("NaturalImage2DIO", ending, flat=True, rgb=True)
    write_raw_dataset(new_dataset, file_format=file_format, slices=1, channels=3, channel_names=COLOURS)
    images = [np.floor(image[:1].clip(0, 255)) / 255 for image in tiny_case(5, 3)[0]]
    check_format(new_dataset, make_on, file_format, images)


def test_3d_tiff_with_its_spacing_in_a_json(new_dataset, make_on):
    file_format = ImageFormat("Tiff3DIO", ".tif")
    write_raw_dataset(new_dataset, file_format=file_format, spacing_mm=SPACING_MM)
    predicted = check_format(new_dataset, make_on, file_format, [z_score(tiny_case(5, 1)[0][0])])
    assert json.loads((predicted / "case_005.json").read_text())["spacing"] == list(SPACING_MM[::-1])
    assert new_dataset.load_plans()["configurations"]["2d"]["spacing"] == [1.2, 0.8]


def test_one_training_case_per_fold(new_dataset, make_on):
    """Both folds are trained and validated, and predict together."""
    write_raw_dataset(new_dataset, training_cases=2)
    plan_and_preprocess_here(new_dataset, patch_size=SHAPE[1:])
    cases = ["case_000", "case_001"]
    splits = [{"train": [one], "val": [other]} for one, other in (cases, cases[::-1])]
    (new_dataset.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for fold in (0, 1):
        trainer = train_one_epoch(make_on(new_dataset, FoundAgain, fold=fold))
        assert trainer.dataloader_train.data_loader._data.identifiers == [cases[fold]]
        trainer.perform_actual_validation()
        (predicted,) = Path(trainer.output_folder, "validation").glob("*.nii.gz")
        assert predicted.name == f"{cases[1 - fold]}.nii.gz"
    predictor = predictor_of(trainer, folds=(0, 1))
    assert len(predictor.list_of_parameters) == 2
    (labels,) = predictor.predict_from_files_sequential(str(new_dataset.raw / "imagesTs"), None)
    assert labels.shape == SHAPE
