"""Which cases the report shows, and how they are drawn."""

import math

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.report_models import Drawn, make_model
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.case_picture import write_case_picture
from nnunetv2_dsvm.reporting.case_slices import colours_of_classes, read_case_slices
from nnunetv2_dsvm.reporting.display import displayed, planes_of, slice_to_show
from nnunetv2_dsvm.reporting.illustrations import case_illustrations, notable_cases
from nnunetv2_dsvm.reporting.results import ValidationCase, read_results


def case(name: str, *dice: float) -> ValidationCase:
    return ValidationCase(name, None, None, None, {str(i): {"Dice": value} for i, value in enumerate(dice)})


def test_best_median_and_worst_by_mean_dice_over_what_is_defined():
    nan = math.nan
    cases = [case("a", 0.5), case("b", 0.9, nan), case("c", 0.1, 0.3), case("d", 0.8, 0.8), case("empty", nan)]
    assert {rank: c.name for rank, c in notable_cases(cases).items()} == {"best": "b", "median": "a", "worst": "c"}


@pytest.mark.parametrize(
    "count, ranks", [(0, []), (1, ["best"]), (2, ["best", "worst"]), (3, ["best", "median", "worst"])]
)
def test_no_case_is_shown_twice(count, ranks):
    chosen = notable_cases([case(f"{i}", 0.5) for i in range(count)])
    assert list(chosen) == ranks and len({c.name for c in chosen.values()}) == len(ranks)


def test_ct_is_shown_in_a_soft_tissue_window():
    image = np.array([-1000, -160, 40, 240, 3000], np.float32).reshape(1, 1, 1, 5)
    shown = displayed(image, 0, ["CT"])
    assert shown.rgb[0, :, 0] == pytest.approx([0, 0, 0.5, 1, 1])
    assert displayed(image / 4000, 0, ["CT"]).description == "CT, percentiles 0.5 to 99.5"  # scaled: no longer in HU


def test_other_images_are_shown_between_percentiles_and_photographs_in_colour():
    image = np.linspace(0, 1000, 1001, dtype=np.float32).reshape(1, 1, 1, 1001)
    shown = displayed(image, 0, ["MR"]).rgb[0, :, 0]
    assert (shown[5], shown[995]) == (0, 1) and shown[500] == pytest.approx(0.5)
    rgb = np.array([255, 128, 0], np.float32).reshape(3, 1, 1, 1)
    for names in (["R", "G", "B"], ["rgb_to_0_1"] * 3):
        assert displayed(rgb, 0, names).rgb[0, 0] == pytest.approx([1, 128 / 255, 0])
    with_alpha = np.concatenate([rgb, rgb])[:4]
    assert displayed(with_alpha, 0, ["R", "G", "B", "alpha"]).rgb[0, 0] == pytest.approx([1, 128 / 255, 0])
    assert displayed(rgb, 0, ["T1", "T2", "FLAIR"]).description.endswith("the first of 3 channels")


def test_the_slice_with_most_foreground():
    empty, mask = np.zeros((2, 5, 4, 4), bool)
    mask[3, :2] = mask[1, 0] = True
    assert slice_to_show(mask, []) == 3
    assert slice_to_show(empty, [empty, mask]) == 3 and slice_to_show(empty, []) == 2


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("stored", ["LPS", "RAS", "LAS", "LPI"])
def test_patients_are_shown_the_same_way_up(tmp_path, reader, stored):
    volume = np.zeros((3, 4, 5), np.float32)
    volume[2, 0, 0] = 1  # in LPS: head, front, right
    image = sitk.DICOMOrient(sitk.GetImageFromArray(volume), stored)
    sitk.WriteImage(image, str(tmp_path / "x_0000.nii.gz"))
    voxels, properties = reader().read_images([str(tmp_path / "x_0000.nii.gz")])
    for plane, name in zip(planes_of(properties), ("axial", "coronal", "sagittal"), strict=True):
        assert plane.name == name
        assert voxels[0].max(plane.axis)[plane.steps][0, 0] == 1


def test_contours_lie_where_the_labels_are(tmp_path, monkeypatch):
    drawn = Drawn(tmp_path, cases=3).write()
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    model = TrainedModel(make_model(drawn, "a", shift=6, folds=1, epochs=1))
    assert len(model.image_files(drawn.case(2))) == 1
    (case,) = read_case_slices(
        model,
        images=model.image_files(drawn.case(2)),
        truth=model.reference_file(drawn.case(2), None),
        predictions={"prediction": model.validation_folder("0") / f"{drawn.case(2)}.nii.gz"},
    )
    assert (case.slice_number, case.slices) == (4, 6)
    write_case_picture(tmp_path / "case.png", [case], model.labels, colours_of_classes([case], model.labels))
    pixels = matplotlib.image.imread(tmp_path / "case.png")[..., :3]
    third = pixels.shape[1] // 3
    orange = np.abs(pixels - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.02
    orange[int(0.85 * len(pixels)) :] = False  # the legend
    truth, prediction = (np.argwhere(orange[:, i * third : (i + 1) * third])[:, 1].mean() for i in (1, 2))
    assert not orange[:, :third].any()
    assert prediction - truth == pytest.approx(12 / 96 * third, rel=0.2)  # two times six of 96 columns


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade_fullres"])
def test_a_case_segmented_in_3d_is_shown_in_three_planes(tmp_path, monkeypatch, configuration):
    drawn = Drawn(tmp_path, cases=1).write()
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    model = TrainedModel(make_model(drawn, "a", folds=1, epochs=1, configuration=configuration))
    assert model.dimensions == 3
    results = [read_results(model, ["0"])]
    (illustration,) = case_illustrations(tmp_path, [model], ["a"], results)
    image, truth = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        for file in (*model.image_files(drawn.case(0)), model.reference_file(drawn.case(0), None))
    )
    most = [int((truth > 0).sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]
    numbers = [f"slice {index + 1} of {size}" for index, size in zip(most, truth.shape, strict=True)]
    wanted = f"axial {numbers[0]}, coronal {numbers[1]}, sagittal {numbers[2]}, the ones with the most foreground; CT"
    assert wanted in illustration.caption
    planes = read_case_slices(
        model, images=model.image_files(drawn.case(0)), truth=model.reference_file(drawn.case(0), None),
        predictions={}, three_planes=True,
    )  # fmt: skip
    shown = [truth[most[0]], truth[::-1, most[1]], truth[::-1, :, most[2]]]  # the head up
    assert all(np.array_equal(p.segmentations["ground truth"], s) for p, s in zip(planes, shown, strict=True))
    greys = np.clip((image[::-1, most[1]].astype(float) + 160) / 400, 0, 1)
    np.testing.assert_allclose(planes[1].rgb[..., 0], greys, atol=1e-6)
    assert [p.pixel_aspect for p in planes] == pytest.approx([1, 4 / 1.5, 4 / 1.5])
    pixels = matplotlib.image.imread(illustration.file)[..., :3]
    orange = (np.abs(pixels - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.02)[: int(0.9 * len(pixels))]
    rows = np.flatnonzero(orange.any(axis=1))
    assert (np.diff(rows) > 5).sum() >= 2  # three rows of contours, one below the other


def test_label_maps_of_another_shape_are_refused(tmp_path, monkeypatch):
    drawn = Drawn(tmp_path, cases=1).write()
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    model = TrainedModel(make_model(drawn, "a", folds=1, epochs=1))
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    sitk.WriteImage(image, str(tmp_path / "other.nii.gz"))
    truth = model.reference_file(drawn.case(0), None)
    with pytest.raises(ValueError, match="has 4×3×2 voxels .* its image has 96×72×6 voxels"):
        read_case_slices(
            model, images=model.image_files(drawn.case(0)), truth=truth,
            predictions={"prediction": tmp_path / "other.nii.gz"},
        )  # fmt: skip
