"""What the quickstart ends with: reduced plans, baselines, table and picture."""

import csv
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.datasets.raw_cases import Case
from nnunetv2_dsvm.quickstart.baseline import Box, body_boxes, copy_best_slice, copy_most_similar_slice
from nnunetv2_dsvm.quickstart.data import REAL_CT
from nnunetv2_dsvm.quickstart.overlay import OPACITY, write_overlay
from nnunetv2_dsvm.quickstart.plans import write_reduced_plans
from nnunetv2_dsvm.quickstart.result_table import DiceColumn, markdown_table, read_dice, write_table


def body(shape: tuple[int, int], organ_at: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A slice with an elliptic body, and one organ in it at a place given in fractions of the body's radii."""
    y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 1, -50.0, -1000.0)
    organ = (x - organ_at[1]) ** 2 + (y - organ_at[0]) ** 2 < 0.3**2
    hu[organ] = 150
    return hu, organ.astype(np.uint8)


def case(name: str, slices: list[tuple[np.ndarray, np.ndarray]]) -> Case:
    images = (sitk.GetImageFromArray(np.stack(part)) for part in zip(*slices, strict=True))
    return Case(name, *images)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("copy", [copy_most_similar_slice, copy_best_slice])
def test_baseline_copies_the_slice_that_fits_onto_the_body(copy):
    training = [
        case("left", [body((40, 50), (0, -0.5))]),
        case("right", [body((40, 50), (0.4, 0)), body((40, 50), (0, 0.5))]),
    ]
    test = case("test", [body((90, 80), (0, 0.5))] * 3)
    copied = copy(training, test)
    assert (copied.case_name, copied.slice_index) == ("right", 1)
    assert dice(sitk.GetArrayFromImage(copied.segmentation), sitk.GetArrayFromImage(test.label)) > 0.9


def test_most_similar_slice_does_not_look_at_the_answer():
    training = [case("a", [body((40, 50), (0, -0.5)), body((40, 50), (0, 0.5))])]
    test = case("test", [body((40, 50), (0, 0.5))])
    mirrored = sitk.Flip(test.label, (True, False, False))
    mirrored.CopyInformation(test.image)
    wrong_truth = Case("test", test.image, mirrored)
    assert copy_most_similar_slice(training, wrong_truth).slice_index == 1
    assert copy_best_slice(training, wrong_truth).slice_index == 0


def test_labels_that_do_not_lie_on_their_image_are_not_copied():
    training, test = case("a", [body((40, 50), (0, 0.5))]), case("test", [body((40, 50), (0, 0.5))])
    mirrored = sitk.Flip(training.label, (True, False, False))  # the same place, the other way round
    half = sitk.Cast(test.label, sitk.sitkFloat32) / 2
    half.CopyInformation(test.image)
    for wrong, text in [
        (Case("a", training.image, mirrored), "labels of a lie on another grid than its image.*origin and direction"),
        (Case("a", sitk.Flip(training.image, (True, False, False)), mirrored), "a go towards right, .* towards left"),
        (Case("a", training.image, half), r"labels of a hold values that are no labels: 0.5 in \d+ voxels"),
    ]:
        for copy in (copy_most_similar_slice, copy_best_slice):
            with pytest.raises(ValueError, match=text):
                copy([wrong], test)


def test_body_box_leaves_out_arms_and_table():
    voxels = np.full((2, 60, 100), -1000.0)
    voxels[:, 10:40, 30:70] = 0
    voxels[:, 20:30, 5:15] = 0  # an arm
    voxels[:, 50:52, :] = 0  # the table
    assert body_boxes(voxels, spacing_mm=3) == [Box(10, 40, 30, 70)] * 2


def test_body_box_of_air_is_the_whole_slice():
    assert body_boxes(np.full((1, 6, 8), -1000.0), spacing_mm=1) == [Box(0, 6, 0, 8)]


COLUMNS = [
    DiceColumn("ours", {"liver": 0.9, "back_muscles": math.nan}),
    DiceColumn("baseline", {"liver": 0.5, "back_muscles": 0.0}),
]


def test_table_has_a_row_per_organ_and_the_mean_of_what_is_known():
    lines = markdown_table(COLUMNS).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])] == [
        ["organ", "ours", "baseline"],
        ["liver", "0.900", "0.500"],
        ["back muscles", "–", "0.000"],
        ["**mean**", "**0.900**", "**0.250**"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_one_organ_has_no_mean_that_repeats_it(tmp_path):
    columns = [DiceColumn("ours", {"liver": 0.9}), DiceColumn("copied slice", {"liver": 0.5})]
    text = write_table(tmp_path, title="T", columns=columns, notes=[], details={})
    assert "| liver" in text and "mean" not in text + (tmp_path / "result.csv").read_text()
    assert json.loads((tmp_path / "result.json").read_text())["results"][0]["mean_dice"] == 0.9


def test_report_is_written_three_times_with_the_same_numbers(tmp_path):
    text = write_table(tmp_path, title="T", columns=COLUMNS, notes=["a note"], details={"epochs": 5})
    assert (tmp_path / "result.md").read_text(encoding="utf-8") == text
    assert markdown_table(COLUMNS) in text and "- a note" in text
    content = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert content["epochs"] == 5
    assert content["results"][0] == {"title": "ours", "mean_dice": 0.9, "dice": {"liver": 0.9, "back_muscles": None}}
    with open(tmp_path / "result.csv", newline="") as file:
        assert list(csv.reader(file))[1] == ["liver", "0.9", "0.5"]


def test_dice_is_read_from_nnunets_summary(tmp_path):
    summary = {"mean": {"1": {"Dice": 0.5, "IoU": 0.3}, "2": {"Dice": math.nan}}, "foreground_mean": {}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = read_dice(tmp_path / "summary.json", {"liver": 1, "spleen": 2})
    assert found["liver"] == 0.5 and math.isnan(found["spleen"])


def test_picture_shows_image_truth_and_prediction_in_their_place(tmp_path):
    image = np.full((5, 40, 60), -160.0)  # black in the window
    truth, prediction = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    truth[:, :20] = 1
    prediction[:, 20:] = 2
    write_overlay(
        tmp_path / "overlay.png",
        image=image,
        columns={"ground truth": truth, "prediction": prediction},
        label_names=["liver", "spleen"],
        spacing_mm=(1.0, 1.0),
        crop=Box(0, 40, 0, 60),
        title="a title",
    )
    picture = imread(tmp_path / "overlay.png")[..., :3]
    assert picture.shape[1] > 1000
    orange, blue = (OPACITY * np.array(rgb) / 255 for rgb in ((0xD5, 0x5E, 0x00), (0x56, 0xB4, 0xE9)))
    centre_of = {name: np.argwhere(np.abs(picture - rgb).max(axis=-1) < 0.01).mean(axis=0) / picture.shape[:2]
                 for name, rgb in {"truth": orange, "prediction": blue}.items()}  # fmt: skip
    assert 1 / 3 < centre_of["truth"][1] < 2 / 3 < centre_of["prediction"][1]
    assert centre_of["truth"][0] < centre_of["prediction"][0]


def test_reduced_plans_change_the_network_the_patch_and_the_batch_only(tmp_path):
    planned = {
        "plans_name": "nnUNetPlans",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.5}},
        "configurations": {
            "2d": {
                "data_identifier": "nnUNetPlans_2d",
                "patch_size": [112, 96],
                "batch_size": 99,
                "spacing": [3.0, 3.0],
                "architecture": {"network_class_name": "other", "arch_kwargs": {}, "_kw_requires_import": ["x"]},
            },
            "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres"},
        },
    }
    source = tmp_path / "nnUNetPlans.json"
    source.write_text(json.dumps(planned))
    path = write_reduced_plans(tmp_path, "small", network={"dims": [8, 16]}, largest_patch_size=(96, 128), batch_size=4)
    assert path == tmp_path / "small.json"
    assert json.loads(source.read_text()) == planned
    plans = json.loads(path.read_text())
    assert plans["plans_name"] == "small"
    assert plans["foreground_intensity_properties_per_channel"] == {"0": {"mean": 1.5}}
    assert plans["configurations"] == {
        "2d": {
            "data_identifier": "nnUNetPlans_2d",
            "patch_size": [96, 96],
            "batch_size": 4,
            "spacing": [3.0, 3.0],
            "architecture": {
                "network_class_name": "nnunetv2_dsvm.architecture.vm_unet.VMUNet",
                "arch_kwargs": {"dims": [8, 16]},
                "_kw_requires_import": [],
            },
        }
    }


def test_reduced_plans_of_volumes_have_the_strides_of_the_plans(tmp_path):
    steps = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]]
    planned = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "patch_size": [8, 160, 96],
        "batch_size": 99,
        "architecture": {"network_class_name": "other", "arch_kwargs": {"strides": steps}, "_kw_requires_import": []},
    }
    plans = {"plans_name": "nnUNetPlans", "configurations": {"2d": {}, "3d_fullres": planned}}
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    sizes = REAL_CT.sizes["3d_fullres"]
    path = write_reduced_plans(
        tmp_path, "small", network=sizes.network, largest_patch_size=(16, 80, 96), batch_size=2,
        configuration_name="3d_fullres",
    )  # fmt: skip
    ((name, reduced),) = json.loads(path.read_text())["configurations"].items()
    assert (name, reduced["patch_size"], reduced["batch_size"]) == ("3d_fullres", [8, 80, 96], 2)
    assert reduced["data_identifier"] == planned["data_identifier"]
    network = VMUNet(1, 3, **reduced["architecture"]["arch_kwargs"])
    assert [list(step) for step in network.sizes.strides] == steps and network.sizes.dims == tuple(
        sizes.network["dims"][:3]
    )
