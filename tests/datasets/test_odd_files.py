"""Image and label files with odd contents, through nnU-Net's preprocessing, training and prediction."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.image_formats import ImageFormat
from helpers.short_trainers import FoundAgain, checkpoint_of, predictor_of, train_one_epoch
from helpers.tiny_dataset import PLANS, SHAPE, plan_and_preprocess_here, write_raw_dataset
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

NIBABEL = ImageFormat("NibabelIO")  # reads every value as it is


def change(path, function):
    """Replaces the array of a NIfTI file by function(array)."""
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(function(np.asarray(image.dataobj).copy()), image.affine), path)


def one_value(value, place=(12, 10, 2)):
    def put(array):
        array[place] = value
        return array

    return put


def write_splits(dataset, *splits):
    folds = [{"train": training, "val": validation} for training, validation in splits]
    (dataset.preprocessed / "splits_final.json").write_text(json.dumps(folds))


def test_constant_images_and_empty_labels_train_and_are_predicted(new_dataset, make_on):
    names = ("MR", "CT", "rescale_to_0_1", "noNorm")  # every normalisation that divides, and none
    write_raw_dataset(new_dataset, channels=4, channel_names=names, file_format=NIBABEL, test_cases=2)
    for split, case, value in [("Tr", 0, 7), ("Tr", 1, 0), ("Ts", 5, 7), ("Ts", 6, 0)]:
        for channel in range(4):
            path = new_dataset.raw / f"images{split}" / f"case_{case:03d}_{channel:04d}.nii.gz"
            change(path, lambda image, value=value: np.full_like(image, value))
    change(new_dataset.raw / "labelsTr" / "case_002.nii.gz", np.zeros_like)
    verify_dataset_integrity(str(new_dataset.raw), 1)
    plan_and_preprocess_here(new_dataset, patch_size=SHAPE[1:])
    odd = ["case_000", "case_001", "case_002"]
    write_splits(new_dataset, *(([case], [case]) for case in odd))
    for fold in range(len(odd)):
        trainer = train_one_epoch(make_on(new_dataset, FoundAgain, fold=fold))
        assert all(value.isfinite().all() for value in checkpoint_of(trainer)["network_weights"].values())
        trainer.perform_actual_validation()
        assert Path(trainer.output_folder, "validation", "summary.json").is_file()
    predictor = predictor_of(trainer, folds=(0, 1, 2))
    for labels, probabilities in predictor.predict_from_files_sequential(str(new_dataset.raw / "imagesTs"), None, True):
        assert labels.shape == SHAPE
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_an_image_that_is_not_finite_stops_every_step_and_is_named(new_dataset, make_on, value, capsys, tmp_path):
    write_raw_dataset(new_dataset, file_format=NIBABEL, test_cases=2)
    plan_and_preprocess_here(new_dataset)
    good = train_one_epoch(make_on(new_dataset, FoundAgain))
    before = {path.name: path.read_bytes() for path in Path(good.output_folder).glob("*.pth")}

    for path in ("imagesTr/case_000_0000.nii.gz", "imagesTs/case_006_0000.nii.gz"):
        change(new_dataset.raw / path, one_value(value))
    if np.isnan(value):
        with pytest.raises(RuntimeError, match="Some images have errors"):
            verify_dataset_integrity(str(new_dataset.raw), 1)
        assert "contain NaN pixel values" in (shown := capsys.readouterr().out) and "case_000_0000" in shown
        with pytest.raises(AssertionError, match="Images contains NaN"):
            api.extract_fingerprint_dataset(901, num_processes=1, show_progress_bar=False)
    api.preprocess_dataset(901, PLANS, ["2d"], [1], show_progress_bar=False)
    bad, fine = ["case_000"], ["case_001"]
    write_splits(new_dataset, (bad, fine), (fine, bad))
    named = "the images of case_000 hold NaN or infinite values"
    trainer = make_on(new_dataset, FoundAgain, run="b", fold=0)
    with pytest.raises(RuntimeError, match=f"the training loss became nan.*{named}"):
        trainer.run_training()
    assert not list(Path(trainer.output_folder).glob("*.pth"))
    trainer = make_on(new_dataset, FoundAgain, run="b", fold=1)
    with pytest.raises(RuntimeError, match=f"an image of the validation is not finite.*{named}"):
        trainer.run_training()
    with pytest.raises(RuntimeError, match=f"The final validation stopped: {named}.*--val"):
        trainer.perform_actual_validation()

    predictor = predictor_of(good)
    images, predicted = str(new_dataset.raw / "imagesTs"), tmp_path / "predicted"
    capsys.readouterr()
    with pytest.raises(ValueError, match="holds NaN or infinite values: .*named last"):
        predictor.predict_from_files(images, str(predicted), False, True, 1, 1)
    assert capsys.readouterr().out.rpartition("Predicting ")[2].startswith("case_006:")
    assert not (predicted / "case_006.nii.gz").exists()
    with pytest.raises(ValueError, match="-npp 0 -nps 0.*the first one without a label map"):
        predictor.predict_from_files_sequential(images, str(predicted))
    assert [path.name for path in predicted.glob("*.nii.gz")] == ["case_005.nii.gz"]
    assert before == {path.name: path.read_bytes() for path in Path(good.output_folder).glob("*.pth")}


@pytest.mark.parametrize("inside_a_label", [False, True])
def test_ct_that_is_infinite_is_clipped_unless_the_plans_became_infinite(new_dataset, make_on, inside_a_label):
    write_raw_dataset(new_dataset, file_format=NIBABEL, channel_names=("CT",))
    labels = np.asarray(nibabel.load(new_dataset.raw / "labelsTr" / "case_000.nii.gz").dataobj)
    place = tuple(np.argwhere((labels > 0) == inside_a_label)[:20].T)
    change(new_dataset.raw / "imagesTr" / "case_000_0000.nii.gz", one_value(np.inf, place))
    plan_and_preprocess_here(new_dataset)
    write_splits(new_dataset, (["case_000"], ["case_001"]))
    trainer = make_on(new_dataset, FoundAgain)
    if not inside_a_label:
        train_one_epoch(trainer)
        return
    with pytest.raises(RuntimeError, match="case_000 hold NaN.*as all images do: .*channel 0 is not finite.*plan and"):
        trainer.run_training()


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_simpleitk_reads_a_nifti_value_that_is_not_finite_as_zero(new_dataset, value):
    """Such a file is then an ordinary one."""
    write_raw_dataset(new_dataset, training_cases=1, test_cases=0)
    path = new_dataset.raw / "imagesTr" / "case_000_0000.nii.gz"
    change(path, one_value(value))
    image, _ = SimpleITKIO().read_images([str(path)])
    assert image[0, 2, 10, 12] == 0 and np.isfinite(image).all()
