"""Label maps and where they lie: what `evaluate`, the report and the quickstart refuse, and what `--resample` does."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.evaluation_files import LABELS, SPACING_MM, blobs, dataset_json, plans_json, write_folders, write_json
from helpers.report_models import Drawn, make_model
from skimage import io

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.datasets.nifti_pairs import check_pair
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.images.image_grid import grid_differences, grid_of_image, resampled
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.quickstart.result import check_comparable_cases, read_cases
from nnunetv2_dsvm.reporting.case_slices import read_case_slices

SPACING, ORIGIN = SPACING_MM[::-1], (-120.5, 80.25, -400.0)


def volume(labels, *, spacing=SPACING, origin=ORIGIN, degrees=0.0, kind=np.uint8):
    image = sitk.GetImageFromArray(labels.astype(kind))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0, 0, np.deg2rad(degrees)).GetMatrix())
    return image


def folders(root, reference, prediction, reader="SimpleITKIO", ending=".nii.gz"):
    for name, image in (("reference", reference), ("prediction", prediction)):
        (root / name).mkdir()
        sitk.WriteImage(image, str(root / name / f"case{ending}"), True)
    write_json(root / "prediction" / "dataset.json", dataset_json(LABELS, ending))
    write_json(root / "prediction" / "plans.json", plans_json(reader))
    return root / "reference", root / "prediction"


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments), "-np", "1"])


def measured(folder):
    content = json.loads((folder / "metrics_nnunet.json").read_text(encoding="utf-8"))
    (case,) = content["per_case"]
    return case["values"], content["resampled_onto_the_reference"]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("stored", ["RAS", "PLS", "SLA"])
def test_the_same_mask_stored_in_another_order(tmp_path, capsys, reader, stored):
    mask = volume(blobs(1))
    reference, prediction = folders(tmp_path, mask, sitk.DICOMOrient(mask, stored), reader)
    assert evaluate(reference, prediction) == 1
    message = capsys.readouterr().err
    for part in (f"{prediction / 'case.nii.gz'} lies on another grid than its reference {reference / 'case.nii.gz'}",
                 "direction", "axes towards left, posterior, superior", "--resample"):  # fmt: skip
        assert part in message, part
    assert not (prediction / "metrics_nnunet.json").exists()
    assert evaluate(reference, prediction, "--resample") == 0
    values, moved = measured(prediction)
    assert [of["Dice"] for of in values.values()] == [1, 1] and values["organ"]["HD95_mm"] == 0
    assert moved == ["case"]
    assert "prediction: 1 of 1 predictions resampled onto the reference's grid: case" in capsys.readouterr().out


def test_a_reader_that_reorients_needs_no_resampling(tmp_path):
    mask = volume(blobs(1))
    reference, prediction = folders(tmp_path, mask, sitk.DICOMOrient(mask, "PLS"), "NibabelIOWithReorient")
    assert evaluate(reference, prediction) == 0
    values, moved = measured(prediction)
    assert values["organ"]["Dice"] == 1 and moved == []


def test_a_mask_100_mm_away(tmp_path, capsys):
    mask, away = volume(blobs(1)), volume(blobs(1), origin=(-20.5, 80.25, -400.0))
    reference, prediction = folders(tmp_path, mask, away)
    assert evaluate(reference, prediction) == 1
    message = capsys.readouterr().err
    assert "origin (-20.5, 80.25, -400) mm" in message and "origin (-120.5, 80.25, -400) mm" in message
    assert evaluate(reference, prediction, "--resample") == 0
    assert [of["Dice"] for of in measured(prediction)[0].values()] == [0, 0]


@pytest.mark.parametrize("protocol, dsc", [("isic", "DSC"), ("synapse", "DSC")])
def test_every_protocol_compares_places(tmp_path, protocol, dsc):
    mask = volume(blobs(1))
    reference, prediction = folders(tmp_path, mask, sitk.DICOMOrient(mask, "RAS"))
    assert evaluate(reference, prediction, "--protocol", protocol) == 1
    assert evaluate(reference, prediction, "--protocol", protocol, "--resample") == 0
    content = json.loads((prediction / f"metrics_{protocol}.json").read_text())
    assert content["summary"]["organ"][dsc]["mean"] == 1


WITHIN = {
    "spacing in single precision": {"spacing": tuple(map(float, np.float32(SPACING)))},
    "spacing to four digits": {"spacing": tuple(s * 1.0001 for s in SPACING)},
    "origin to three digits": {"origin": tuple(o + 0.0005 for o in ORIGIN)},
    "a quaternion's rounding": {"degrees": 0.005},
}
BEYOND = {
    "half a voxel": ({"origin": (ORIGIN[0] + 0.35, *ORIGIN[1:])}, "origin"),
    "half a slice": ({"origin": (*ORIGIN[:2], ORIGIN[2] - 1.25)}, "origin"),
    "a twentieth of a voxel": ({"origin": (ORIGIN[0], ORIGIN[1] + 0.04, ORIGIN[2])}, "origin"),
    "spacing by a hundredth": ({"spacing": (SPACING[0] * 1.01, *SPACING[1:])}, "spacing"),
    "a turn by a degree": ({"degrees": 1.0}, "direction"),
}


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("other", WITHIN.values(), ids=WITHIN)
def test_rounding_is_no_other_grid(tmp_path, reader, other):
    assert evaluate(*folders(tmp_path, volume(blobs(1)), volume(blobs(1), **other), reader)) == 0


@pytest.mark.parametrize("other, differ", BEYOND.values(), ids=BEYOND)
def test_what_is_more_than_rounding(tmp_path, capsys, other, differ):
    assert evaluate(*folders(tmp_path, volume(blobs(1)), volume(blobs(1), **other))) == 1
    assert f"they differ in {differ}. It has" in capsys.readouterr().err


def test_rounding_that_adds_up_over_many_voxels_is_more():
    one, other = sitk.Image(2000, 4, 4, sitk.sitkUInt8), sitk.Image(2000, 4, 4, sitk.sitkUInt8)
    other.SetSpacing((1.0004, 1, 1))
    (found,) = grid_differences(grid_of_image(other), grid_of_image(one))
    assert found == "place of the last voxels, by 0.8 voxels"


@pytest.mark.parametrize("seed", range(3))
def test_resampling_is_the_nearest_neighbour_of_itk(seed):
    random = np.random.default_rng(seed)
    moving = volume(blobs(seed), degrees=random.uniform(-30, 30))
    onto = sitk.Image(24, 19, 11, sitk.sitkUInt8)
    onto.SetSpacing(random.uniform(0.5, 2, 3).tolist())
    onto.SetOrigin((np.array(ORIGIN) + random.uniform(-3, 3, 3)).tolist())
    onto.SetDirection(sitk.Euler3DTransform((0, 0, 0), *random.uniform(-0.4, 0.4, 3)).GetMatrix())
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, onto, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    found = resampled(blobs(seed), grid_of_image(moving), grid_of_image(onto))
    assert expected.any() and (found != expected).mean() < 1e-3


def test_a_coarser_prediction_and_a_cropped_one_are_resampled(tmp_path):
    fine = np.zeros((6, 20, 22), np.uint8)
    fine[2:4, 4:12, 6:16] = 1
    coarse = volume(fine[:, ::2, ::2], spacing=(1.4, 1.6, 2.5), origin=(ORIGIN[0] + 0.35, ORIGIN[1] + 0.4, ORIGIN[2]))
    cropped = volume(fine)[4:, 3:, 1:]
    for name, prediction in (("coarse", coarse), ("cropped", cropped)):
        (tmp_path / name).mkdir()
        reference, predictions = folders(tmp_path / name, volume(fine), prediction)
        assert evaluate(reference, predictions) == 1
        assert evaluate(reference, predictions, "--resample") == 0
        assert measured(predictions)[0]["organ"]["Dice"] == 1


def test_2d_images(tmp_path, capsys):
    mask = volume(blobs(1))[:, :, 2]
    reference, prediction = folders(tmp_path, mask, mask[::-1, :])  # ITK keeps the place: only the order changes
    assert evaluate(reference, prediction) == 1
    assert "22×20 voxels of 0.7×0.8 mm" in capsys.readouterr().err
    assert evaluate(reference, prediction, "--resample") == 0
    assert measured(prediction)[0]["organ"]["Dice"] == 1


@pytest.mark.parametrize("option", [(), ("--resample",)])
def test_an_image_and_a_volume_of_one_slice_have_no_common_grid(tmp_path, capsys, option):
    mask = volume(blobs(1))[:, :, 2:3]
    assert evaluate(*folders(tmp_path, mask, mask[:, :, 0]), *option) == 1
    message = capsys.readouterr().err
    assert "number of dimensions" in message and ("--resample cannot" in message) == bool(option)


@pytest.mark.parametrize("option", [(), ("--resample",)])
def test_pngs_have_no_place_to_be_resampled_by(tmp_path, capsys, option):
    for name, shape in (("reference", (40, 30)), ("prediction", (30, 40))):
        (tmp_path / name).mkdir()
        io.imsave(tmp_path / name / "a.png", np.ones(shape, np.uint8), check_contrast=False)
    write_json(tmp_path / "prediction" / "dataset.json", dataset_json(LABELS, ".png"))
    assert evaluate(tmp_path / "reference", tmp_path / "prediction", *option) == 1
    message = capsys.readouterr().err
    assert "has shape 1×30×40, its reference" in message and ("--resample cannot" in message) == bool(option)


def test_directions_that_itk_cannot_hold(tmp_path, capsys):
    """ITK refuses a sheared grid; nibabel's readers give it, and it is resampled as what it is."""
    mask = volume(blobs(1))
    reference, prediction = folders(tmp_path, mask, mask)
    stored = nibabel.load(prediction / "case.nii.gz")
    affine = stored.affine @ np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.asarray(stored.dataobj), affine), prediction / "case.nii.gz")
    assert evaluate(reference, prediction) == 1
    assert "case.nii.gz cannot be read: ITK only supports orthonormal direction" in capsys.readouterr().err
    write_json(prediction / "plans.json", plans_json("NibabelIO"))
    assert evaluate(reference, prediction) == 1
    assert "they differ in spacing and direction" in capsys.readouterr().err


@pytest.mark.parametrize("slices", [22, 1])
def test_a_header_without_spacing(tmp_path, capsys, slices):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))}, file_ending=".nii")
    image = nibabel.Nifti1Image(blobs(1)[..., :slices], np.eye(4))
    for folder in (reference, prediction):
        nibabel.save(image, folder / "a.nii")
        content = bytearray((folder / "a.nii").read_bytes())
        content[88:92] = np.float32(0).tobytes()  # pixdim[3]; ITK would take 1 mm
        (folder / "a.nii").write_bytes(content)
    assert evaluate(reference, prediction) == int(slices > 1)
    assert ("cannot be read: its header has the spacing 1×1×0 mm" in capsys.readouterr().err) == (slices > 1)


@pytest.fixture
def model(tmp_path, monkeypatch):
    drawn = Drawn(tmp_path, cases=2).write()
    for kind in ("raw", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / f"nnUNet_{kind}"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "nnUNet_preprocessed"))
    return drawn, TrainedModel(make_model(drawn, "nnUNetTrainer", folds=1, epochs=1))


def test_a_cross_validation_compares_places_too(model, capsys):
    drawn, trained = model
    file = trained.validation_folder("0") / f"{drawn.case(1)}.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS"), str(file))
    command = ["-d", "905", "-tr", "nnUNetTrainer", "-f", "0"]
    assert evaluate(*command) == 1
    message = capsys.readouterr().err
    assert "1 problem," in message and f"{file} lies on another grid" in message
    assert evaluate(*command, "--resample") == 0
    content = json.loads((trained.validation_folder("0") / "metrics_nnunet.json").read_text())
    assert content["resampled_onto_the_reference"] == [drawn.case(1)]
    report = drawn.root / "report"
    assert main(["report", "-d", "905", "-tr", "nnUNetTrainer", "-f", "0", "-o", str(report)]) == 0
    text = (report / "report.html").read_text(encoding="utf-8")
    assert f"Resampled onto their ground truth&#39;s grid before they were measured: {drawn.case(1)}." in text
    assert "No picture: " in text and "lies on another grid than its image" in text


@pytest.mark.parametrize("which", ["image", "truth", "prediction"])
def test_a_picture_needs_one_grid(model, which):
    drawn, trained = model
    case = drawn.case(0)
    files = {"image": trained.image_files(case)[0], "truth": trained.reference_file(case, None),
             "prediction": trained.validation_folder("0") / f"{case}.nii.gz"}  # fmt: skip
    image = sitk.ReadImage(str(files[which]))
    image.SetOrigin((0, 100, 0))
    sitk.WriteImage(image, str(files[which]))
    with pytest.raises(ValueError, match="lies on another grid than its image .* they differ in origin"):
        read_case_slices(
            trained, images=[files["image"]], truth=files["truth"], predictions={"prediction": files["prediction"]}
        )


def test_a_dataset_whose_label_lies_half_a_voxel_off_far_from_the_scanners_centre(tmp_path):
    """The origin's tolerance was relative to the origin: here 0.4 mm."""
    sitk.WriteImage(volume(blobs(1), kind=np.int16), str(tmp_path / "image.nii.gz"))
    sitk.WriteImage(volume(blobs(1), origin=(*ORIGIN[:2], -399.7)), str(tmp_path / "label.nii.gz"))
    ((path, text),) = check_pair(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", range(3))
    assert path.name == "label.nii.gz" and "they differ in origin. It has 22×20×6 voxels" in text


def test_the_quickstarts_truth_lies_on_its_image_and_under_its_prediction(tmp_path):
    """nnU-Net's own evaluation, which the quickstart runs, compares voxels."""
    mask = volume(blobs(1))
    labels, prediction = folders(tmp_path, mask, sitk.DICOMOrient(mask, "RAS"))
    with pytest.raises(UserError, match="case.nii.gz lies on another grid than its reference"):
        check_comparable_cases(labels, prediction, prediction / "dataset.json")
    sitk.WriteImage(mask, str(prediction / "case.nii.gz"))
    check_comparable_cases(labels, prediction, prediction / "dataset.json")

    raw = tmp_path / "raw"
    for name in ("imagesTs", "labelsTs"):
        (raw / name).mkdir(parents=True)
    write_json(raw / "dataset.json", dataset_json(LABELS))
    sitk.WriteImage(mask, str(raw / "labelsTs" / "case.nii.gz"))
    sitk.WriteImage(sitk.Cast(mask, sitk.sitkInt16), str(raw / "imagesTs" / "case_0000.nii.gz"))
    assert [case.name for case in read_cases(raw, "Ts")] == ["case"]
    sitk.WriteImage(volume(blobs(1), origin=(0, 0, 0), kind=np.int16), str(raw / "imagesTs" / "case_0000.nii.gz"))
    with pytest.raises(UserError, match="case.nii.gz: lies on another grid than its image"):
        read_cases(raw, "Ts")
