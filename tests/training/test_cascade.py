"""A cascade of two 2D configurations: the second network also sees the first one's segmentation, a channel a label."""

from pathlib import Path

import numpy as np
import pytest
from helpers.short_trainers import (
    FoundAgain,
    ShortDSVM_deepSupervision,
    ShortVMUNet,
    predictor_of,
    probabilities_by_hand,
    train_one_epoch,
    z_score,
)
from helpers.tiny_dataset import SHAPE, plan_and_preprocess_here, tiny_case, write_raw_dataset

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

LOW, HIGH = "2d_lowres", "2d_cascade"
CASCADE = {
    LOW: {
        "inherits_from": "2d",
        "data_identifier": "tinyPlans_2d_lowres",
        "spacing": [2.0, 2.0],
        "patch_size": [20, 24],
        "next_stage": HIGH,
    },
    HIGH: {"inherits_from": "2d", "previous_stage": LOW},
}


def one_hot(labels):
    return [(labels == label).astype(np.float32) for label in (1, 2)]


@pytest.fixture
def prepared(new_dataset, request):
    write_raw_dataset(new_dataset, regions=getattr(request, "param", False))
    plan_and_preprocess_here(new_dataset, CASCADE, patch_size=SHAPE[1:])
    return new_dataset


@pytest.mark.parametrize("prepared", [False, True], ids=["labels", "regions"], indirect=True)
def test_a_2d_cascade(prepared, make_on):
    low = train_one_epoch(make_on(prepared, FoundAgain, configuration=LOW, fold="all"))
    assert low.num_input_channels == 1
    low.perform_actual_validation()  # which writes what the second stage reads

    high = make_on(prepared, FoundAgain, configuration=HIGH)
    high.oversample_foreground_percent = 0.0  # else patches are moved towards the labels
    train_one_epoch(high)
    assert high.num_input_channels == high.network.encoder.patch_embedding.projection.in_channels == 3
    batch = next(high.dataloader_val)
    (case,) = set(batch["keys"])
    image, _, previous, _ = high.dataloader_val.data_loader._data.load_case(case)
    for patch in batch["data"].numpy():
        (z,) = [z for z in range(SHAPE[0]) if np.array_equal(image[0, z], patch[0])]
        np.testing.assert_array_equal(patch[1:], one_hot(previous[z]))
    high.perform_actual_validation()
    assert Path(high.output_folder, "validation", f"{case}.nii.gz").is_file()

    for trainer_class in (ShortVMUNet, ShortDSVM_deepSupervision):
        trainer = make_on(prepared, trainer_class, configuration=HIGH)
        trainer.folder_with_segs_from_previous_stage = high.folder_with_segs_from_previous_stage
        assert train_one_epoch(trainer).network.encoder.patch_embedding.projection.in_channels == 3

    images, previous = str(prepared.raw / "imagesTs"), str(prepared.raw / "labelsTs")  # any label maps will do
    predicted = str(prepared.root / "predicted")
    predictor = predictor_of(high)
    predictor.use_gaussian = False
    with pytest.raises(AssertionError, match=f"cascaded network.*previous stage .{LOW}"):
        predictor.predict_from_files(images, predicted)
    predictor.predict_from_files(images, predicted, True, True, 1, 1, folder_with_segs_from_prev_stage=previous)
    (image,), labels = tiny_case(5, 1)
    probabilities = np.load(Path(predicted, "case_005.npz"))["probabilities"]
    expected = probabilities_by_hand(high, [z_score(image), *one_hot(labels)])
    np.testing.assert_allclose(probabilities, expected, atol=0.005)
    without = probabilities_by_hand(high, [z_score(image), *one_hot(0 * labels)])
    assert abs(without - expected).max() > 0.1, "the second network does not look at the first one's labels"


def test_a_second_stage_without_the_first_ones_segmentations_is_refused_before_training(prepared, make_on):
    trainer = make_on(prepared, FoundAgain, configuration=HIGH)
    folder = Path(trainer.folder_with_segs_from_previous_stage)
    folder.mkdir(parents=True)
    for case in ("case_000", "case_001", "case_003"):
        (folder / f"{case}.b2nd").touch()
    (folder / "case_002.b.b2nd").touch()  # another case's
    with pytest.raises(RuntimeError, match=f"of case_002, case_004 are missing in {folder}.*every fold of {LOW}"):
        trainer.run_training()
    assert trainer.losses == []
