"""Simulated contrast agent, and folds that keep what belongs together in one piece."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_dsvm.datasets.splits import write_grouped_splits
from nnunetv2_dsvm.quickstart import totalsegmentator_example as example
from nnunetv2_dsvm.quickstart.contrast_phase import (
    BONE_DIFFERENCE_HU,
    PORTAL_VENOUS_GAIN_HU,
    contrast_phases,
    with_gain,
)

LIVER, BONE = 5, 30


@pytest.fixture
def scan():
    """A block of liver beside a block that gains nothing, 3 mm voxels."""
    classes = np.zeros((12, 20, 24), np.uint8)
    classes[:, :, :12] = LIVER
    classes[:, :, 12:] = BONE
    image = np.full(classes.shape, 50, np.int16)
    images = [sitk.GetImageFromArray(a) for a in (image, classes)]
    for i in images:
        i.SetSpacing((3.0, 3.0, 3.0))
        i.SetOrigin((1.0, 2.0, 3.0))
    return images


def test_organs_gain_what_they_should_and_others_nothing(scan):
    image, classes = scan
    result = with_gain(image, classes, {LIVER: 27.0})
    array = sitk.GetArrayFromImage(result)
    assert array[6, 10, 4] == 77
    assert array[6, 10, 20] == 50
    assert result.GetOrigin() == image.GetOrigin() and result.GetSpacing() == image.GetSpacing()
    assert (sitk.GetArrayViewFromImage(image) == 50).all(), "the scan itself must stay as it is"


def test_phases_are_named_and_native_is_untouched(scan):
    image, classes = scan
    phases = dict(contrast_phases(image, classes, 2))
    assert list(phases) == ["native", "contrast1", "contrast2"]
    assert phases["native"] is image


def test_phases_differ_within_the_range_and_repeat(scan):
    image, classes = scan
    first, again = (
        [sitk.GetArrayFromImage(phase)[6, 10].astype(int) - 50 for _, phase in contrast_phases(image, classes, 3)]
        for _ in range(2)
    )
    assert np.array_equal(first, again)
    liver, bone = np.array(first)[:, 4], np.array(first)[:, 20]
    assert liver[0] == bone[0] == 0 and len(set(liver)) == len(set(bone)) == 4
    gain = PORTAL_VENOUS_GAIN_HU[LIVER]
    assert (liver[1:] >= 0.3 * gain - 1).all() and (liver <= 1.3 * gain + 1).all()
    assert (bone >= BONE_DIFFERENCE_HU[0] - 1).all() and (bone <= BONE_DIFFERENCE_HU[1] + 1).all()


def test_cases_of_one_slab_share_a_fold(tmp_path):
    truth = tmp_path / "gt_segmentations"
    truth.mkdir()
    for slab in range(5):
        for phase in ("native", "contrast1", "contrast2"):
            (truth / f"patientA_slab{slab}_{phase}.nii.gz").touch()
    splits = json.loads(write_grouped_splits(tmp_path, example.slab_of).read_text())
    assert len(splits) == 5
    for fold, split in enumerate(splits):
        assert {example.slab_of(case) for case in split["val"]} == {f"patientA_slab{fold}"}
        assert len(split["val"]) == 3 and len(split["train"]) == 12
        assert not {example.slab_of(c) for c in split["train"]} & {example.slab_of(c) for c in split["val"]}


def test_too_few_groups_are_refused(tmp_path):
    (tmp_path / "gt_segmentations").mkdir()
    (tmp_path / "gt_segmentations" / "a_native.nii.gz").touch()
    with pytest.raises(ValueError, match="5 folds need 5 groups"):
        write_grouped_splits(tmp_path, example.slab_of)
