"""The conversion to nnU-Net's raw format: orientation, physical space, slabs, phantom."""

import json
import locale

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_dsvm.datasets.raw_cases import Case, label_on_grid, merge_labels, to_lps, write_dataset
from nnunetv2_dsvm.quickstart import totalsegmentator_example as example
from nnunetv2_dsvm.quickstart.phantom import ORGANS, phantom_patient, write_phantom

SPACING_MM = (1.5, 2.0, 3.0)


def grid(array: np.ndarray, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), origin=(10, -20, 30)) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM)
    image.SetDirection(direction)
    image.SetOrigin(origin)
    return image


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, (4, 6, 5)).astype(np.uint8)


def test_label_stored_with_rows_the_other_way_round_is_matched_in_physical_space(labels):
    ct = grid(labels.astype(np.int16))
    rows = labels.shape[1]
    stored = grid(labels[:, ::-1], (1, 0, 0, 0, -1, 0, 0, 0, 1), (10, -20 + (rows - 1) * SPACING_MM[1], 30))
    assert not np.array_equal(sitk.GetArrayFromImage(stored), labels)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label_on_grid(stored, ct)), labels)


def test_label_is_background_outside_of_its_file(labels):
    ct = grid(labels.astype(np.int16))
    found = sitk.GetArrayFromImage(label_on_grid(grid(labels)[:, :, 1:3], ct))
    np.testing.assert_array_equal(found[1:3], labels[1:3])
    assert not found[0].any() and not found[3].any()


@pytest.mark.parametrize(
    "direction", [(-1, 0, 0, 0, -1, 0, 0, 0, 1), (1, 0, 0, 0, 1, 0, 0, 0, -1), (0, 1, 0, 1, 0, 0, 0, 0, 1)]
)
def test_lps_changes_the_order_of_voxels_but_not_where_they_are(labels, direction):
    image = grid(labels, direction)
    turned = to_lps(image)
    assert turned.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    for index in [(0, 0, 0), (4, 5, 3), (1, 2, 3)]:
        point = image.TransformIndexToPhysicalPoint(index)
        assert turned[turned.TransformPhysicalPointToIndex(point)] == image[index]


def test_groups_of_labels_are_numbered_in_their_order(labels):
    merged = merge_labels(grid(labels), {"first": [3], "second": [1, 2]})
    np.testing.assert_array_equal(sitk.GetArrayFromImage(merged), np.array([0, 2, 2, 1])[labels])
    assert merged.GetSpacing() == SPACING_MM


def test_slabs_keep_their_place_in_the_patient(labels):
    case = Case("patient", grid(labels.astype(np.int16)), grid(labels))
    first, second = example.slabs(case, [(0, 1), (3, 4)], guard_slices=2)
    assert (first.name, second.name) == ("patient_slab0", "patient_slab1")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(second.label), labels[3:])
    assert second.image.GetOrigin() == (10, -20, 30 + 3 * SPACING_MM[2])


@pytest.mark.parametrize("ranges", [[(0, 2), (3, 4)], [(2, 3), (0, 1)], [(0, 5)], [(2, 2)]])
def test_slabs_too_close_or_outside_are_refused(labels, ranges):
    case = Case("patient", grid(labels.astype(np.int16)), grid(labels))
    with pytest.raises(ValueError, match=f"slab {len(ranges) - 1} .* at least 2 slices"):
        list(example.slabs(case, ranges, guard_slices=2))


def test_five_folds_with_eight_slices_between_them():
    assert len(example.SLABS) >= 5
    assert example.GUARD_SLICES >= 8
    assert all(b[0] - a[1] >= example.GUARD_SLICES for a, b in zip(example.SLABS, example.SLABS[1:], strict=False))
    assert example.SLABS[0][0] >= 0 and example.SLABS[-1][1] <= 112


def test_patient_from_a_dicom_series_and_a_flipped_label(tmp_path):
    rng = np.random.default_rng(0)
    voxels = rng.integers(-1000, 1000, (3, 6, 5)).astype(np.int16)
    labels = rng.choice(np.array([0, 1, 5, 30, 6], np.uint8), voxels.shape)
    _write_dicom_series(grid(voxels), tmp_path / "series")
    stored = sitk.Flip(grid(labels), (False, True, False))
    sitk.WriteImage(stored, str(tmp_path / "labels.nii.gz"))

    case = example.read_patient("patientB", tmp_path / "series", tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(case.image), voxels)
    # spleen, liver, a vertebra; 6 (stomach) is none of the groups
    expected = np.select([labels == 5, labels == 1, labels == 30], [1, 2, 4])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(case.label), expected)


def test_dataset_is_complete_or_not_there(tmp_path, labels):
    case = Case("a", grid(labels.astype(np.int16)), grid(labels))
    folder = tmp_path / "Dataset001_X"
    texts = {"label_names": ["x", "y", "z"], "description": "d", "reference": "r"}

    def interrupted():
        yield case
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(folder, training=interrupted(), test=[], **texts)
    assert not folder.exists()

    write_dataset(folder, training=[case], test=[case], **texts)
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTraining"] == 1
    assert content["labels"] == {"background": 0, "x": 1, "y": 2, "z": 3}
    for path in ("imagesTr/a_0000", "labelsTr/a", "imagesTs/a_0000", "labelsTs/a"):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{path}.nii.gz"))), labels)
    assert [p.name for p in tmp_path.iterdir()] == ["Dataset001_X"]


def test_phantoms_are_repeatable_and_differ_as_patients_do():
    a, again, b = (sitk.GetArrayFromImage(phantom_patient(seed)[1]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, b)


def test_phantom_dataset_has_every_organ_in_every_case(tmp_path):
    write_phantom(tmp_path / "Dataset001_P")
    paths = sorted((tmp_path / "Dataset001_P").glob("labels*/*.nii.gz"))
    assert len(paths) == 6
    for path in paths:
        label = sitk.ReadImage(str(path))
        assert set(np.unique(sitk.GetArrayFromImage(label))) == set(range(len(ORGANS) + 1)), path
        image = sitk.ReadImage(
            str(path.parent.parent / path.parent.name.replace("labels", "images") / f"{path.name[:-7]}_0000.nii.gz")
        )
        hu = sitk.GetArrayFromImage(image)[sitk.GetArrayFromImage(label) == 4]
        assert 270 < hu.mean() < 370  # the label lies on the organ it names
        assert label.GetDirection() == image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def _write_dicom_series(image: sitk.Image, folder) -> None:
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(image.GetSize()[2]):
        s = image[:, :, z]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        tags = {
            "0008|0060": "CT",
            "0020|000e": "1.2.3.4",
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(z),
        }
        for tag, value in tags.items():
            s.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{9 - z}.dcm"))  # names in another order than the slices
        before = locale.setlocale(locale.LC_ALL)
        writer.Execute(s)
        locale.setlocale(locale.LC_ALL, before)  # the writer leaves "C", in which open() reads and writes ASCII
