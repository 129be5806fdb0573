"""Values that are no labels, in every label file that a command reads. ITK reads NaN in NIfTI as 0, without a word."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from helpers.evaluation_files import LABELS, blobs, dataset_json, plans_json, write_folders, write_json
from helpers.report_models import Drawn, make_model

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.datasets.nifti_pairs import check_pair
from nnunetv2_dsvm.images.label_maps import read_label_map
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.case_slices import read_case_slices

AFFINE = np.diag([-0.7, -0.8, 2.5, 1])
WRONG = {  # values, type, what is said
    "NaN": ([np.nan, np.nan], np.float32, "NaN in 2 voxels"),
    "Inf": ([np.inf, -np.inf], np.float64, "Inf in 1 voxel, -Inf in 1"),
    "NaN, big-endian": ([np.nan], ">f4", "NaN in 1 voxel"),
    "NaN and a half": ([np.nan, 0.5], np.float32, "NaN in 1 voxel, 0.5 in 1"),
    "nearly one": ([1.0000001, 0.99999], np.float32, "0.99999 in 1 voxel, 1.0000001 in 1"),
    "negative": ([-1, -1, -3], np.int16, "-3 in 1 voxel, -1 in 2"),
    "too large": ([65536 + 1], np.int32, "65537 in 1 voxel"),
    "many": (np.arange(1, 11) / 16, np.float32, "0.5 in 1 and 2 other values"),
}


def write(path, values, kind, ending=".nii.gz"):
    """Labels `(x, y, z)` with these values in them."""
    labels = np.ascontiguousarray(blobs(1).T, dtype=kind)
    labels.reshape(-1)[5 : 5 + len(values)] = values
    if ending.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(labels, AFFINE), path)
    elif ending == ".tif":
        tifffile.imwrite(path, labels.T)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(labels.T), str(path))


@pytest.mark.parametrize("role", ["reference", "prediction"])
@pytest.mark.parametrize("values, kind, said", WRONG.values(), ids=WRONG)
def test_values_in_an_evaluated_file(tmp_path, capsys, role, values, kind, said):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    file = tmp_path / role / "a.nii.gz"
    for folder in (reference, prediction):
        write(folder / "a.nii.gz", [], np.uint8)
    write(file, values, kind)
    assert main(["evaluate", str(reference), str(prediction), "-np", "1"]) == 1
    message = capsys.readouterr().err
    assert "1 problem," in message and f"{file} holds values that are no labels (" in message and said in message
    assert not list(prediction.glob("metrics*"))


def test_complex_numbers_are_no_labels(tmp_path, capsys):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    write(prediction / "a.nii.gz", [1j], np.complex64)
    assert main(["evaluate", str(reference), str(prediction), "-np", "1"]) == 1
    assert "a.nii.gz cannot be read: it holds complex numbers" in capsys.readouterr().err


def test_a_file_that_itk_does_not_know(tmp_path, capsys):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    nibabel.save(nibabel.Nifti2Image(blobs(1).T, AFFINE), prediction / "a.nii.gz")
    assert main(["evaluate", str(reference), str(prediction), "-np", "1"]) == 1
    assert "a.nii.gz cannot be read: Unable to determine ImageIO reader" in capsys.readouterr().err


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient"])
def test_nibabels_readers(tmp_path, capsys, reader):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    write_json(prediction / "plans.json", plans_json(reader))
    write(reference / "a.nii.gz", [np.nan, 0.5, np.inf], np.float32)
    assert main(["evaluate", str(reference), str(prediction), "-np", "1"]) == 1
    assert "a.nii.gz holds values that are no labels (NaN in 1 voxel, Inf in 1, 0.5 in 1)" in capsys.readouterr().err


@pytest.mark.parametrize("reader, ending", [("SimpleITKIO", ".nrrd"), ("SimpleITKIO", ".mha"), ("Tiff3DIO", ".tif")])
def test_other_formats(tmp_path, capsys, reader, ending):
    for name, values in (("reference", [np.nan, 0.5]), ("prediction", [-np.inf])):
        (tmp_path / name).mkdir()
        write(tmp_path / name / f"a{ending}", values, np.float32, ending)
    write_json(tmp_path / "prediction" / "dataset.json", dataset_json(LABELS, ending))
    write_json(tmp_path / "prediction" / "plans.json", plans_json(reader))
    assert main(["evaluate", str(tmp_path / "reference"), str(tmp_path / "prediction"), "-np", "1"]) == 1
    message = capsys.readouterr().err
    assert "(NaN in 1 voxel, 0.5 in 1)" in message and "(-Inf in 1 voxel)" in message


def test_scaled_integers_are_what_they_are_scaled_to(tmp_path):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    file = tmp_path / "a.nii"
    write(file, [], np.int16, ".nii")
    content = bytearray(file.read_bytes())
    content[112:116] = np.float32(0.5).tobytes()  # scl_slope
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"no labels \(0.5 in {(blobs(1) == 1).sum()} voxels\)"):
        read_label_map(file, SimpleITKIO())
    content[112:120] = np.array([0, 0], np.float32).tobytes()  # a slope of 0 scales nothing
    file.write_bytes(content)
    np.testing.assert_array_equal(read_label_map(file, SimpleITKIO()).values, blobs(1))


def test_a_report_has_no_picture_of_them(tmp_path, monkeypatch):
    drawn = Drawn(tmp_path, cases=1).write()
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    model = TrainedModel(make_model(drawn, "a", folds=1, epochs=1))
    truth = model.reference_file(drawn.case(0), None)
    prediction = model.validation_folder("0") / f"{drawn.case(0)}.nii.gz"
    stored = nibabel.load(prediction)
    values = np.asarray(stored.dataobj).astype(np.float32)
    values[3, 4, 2] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, stored.affine), prediction)
    with pytest.raises(ValueError, match=rf"{prediction.name} holds values that are no labels \(NaN in 1 voxel\)"):
        read_case_slices(
            model, images=model.image_files(drawn.case(0)), truth=truth, predictions={"prediction": prediction}
        )


def test_a_converted_dataset_has_none(tmp_path):
    write(tmp_path / "image.nii.gz", [], np.int16)
    write(tmp_path / "label.nii.gz", [np.nan, 0.5, 0.5, 7], np.float32)
    findings = check_pair(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", range(3))
    assert {path.name for path, _ in findings} == {"label.nii.gz"}
    assert [text for _, text in findings] == [
        "has values that are not numbers: NaN in 1 voxel",
        "holds values that are no labels: 0.5 in 2 voxels",
        "has the labels 7, expected 0 to 2",
    ]


def test_plan_and_preprocess_names_them(tmp_path, monkeypatch, capsys):
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / f"nnUNet_{kind}"))
    drawn = Drawn(tmp_path, cases=3).write()
    files = [drawn.raw / "labelsTr" / f"{drawn.case(i)}.nii.gz" for i in range(2)]
    for file, wrong in zip(files, (np.nan, 0.5), strict=True):
        stored = nibabel.load(file)
        values = np.asarray(stored.dataobj).astype(np.float32)
        values[0, 0, 0] = wrong
        nibabel.save(nibabel.Nifti1Image(values, stored.affine), file)
    assert main(["plan_and_preprocess", "-d", "905"]) == 1
    message = capsys.readouterr().err
    assert f"2 of 3 label files of {drawn.name} cannot be used" in message
    assert f"{files[0]} holds values that are no labels (NaN in 1 voxel)" in message
    assert f"{files[1]} holds values that are no labels (0.5 in 1 voxel)" in message
    assert "Nothing was planned" in message and not (tmp_path / "nnUNet_preprocessed").exists()
