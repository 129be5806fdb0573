"""Simulated contrast agent, and folds that keep what belongs together in one piece."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_dsvm.datasets import totalsegmentator_example as example
from nnunetv2_dsvm.datasets.contrast_phase import PORTAL_VENOUS_GAIN_HU, contrast_phases, with_contrast
from nnunetv2_dsvm.planning.grouped_splits import write_grouped_splits

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


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_organs_gain_their_share_and_others_nothing(scan, fraction):
    image, classes = scan
    result = with_contrast(image, classes, fraction)
    array = sitk.GetArrayFromImage(result)
    assert array[6, 10, 4] == pytest.approx(50 + fraction * PORTAL_VENOUS_GAIN_HU[LIVER], abs=1)
    assert array[6, 10, 20] == 50
    assert result.GetOrigin() == image.GetOrigin() and result.GetSpacing() == image.GetSpacing()
    assert (sitk.GetArrayViewFromImage(image) == 50).all(), "the scan itself must stay as it is"


def test_phases_are_named_and_native_is_untouched(scan):
    image, classes = scan
    phases = dict(contrast_phases(image, classes, (0.0, 0.5, 1.0)))
    assert list(phases) == ["native", "contrast050", "contrast100"]
    assert phases["native"] is image


def test_cases_of_one_slab_share_a_fold(tmp_path):
    truth = tmp_path / "gt_segmentations"
    truth.mkdir()
    for slab in range(5):
        for phase in ("native", "contrast050", "contrast100"):
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
