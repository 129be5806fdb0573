"""`nnUNetv2_dsvm predict_dicom`, from DICOM to DICOM: voxels are where they were, by readers that are not ours."""

import csv
import json
import shutil
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers import dicom_series as ds
from helpers.dicom_readers import affine, dice, errors_of_dciodvfy, read_segmentation, read_structures
from helpers.examples_in_docstrings import run_example
from helpers.threshold_model import make_threshold_model, nnUNetTrainerOfOldNnUNet
from helpers.tiny_dataset import NETWORK
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_export import export_pretrained_model
from PIL import Image
from pydicom import dcmread

import nnunetv2_dsvm
from nnunetv2_dsvm import VMUNet, predict_dicom
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.dicom import run as run_of_dicom
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.checksums import sha256_of
from nnunetv2_dsvm.nnunet.names import BEST
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM

NAMES = {1: "liver", 2: "my_label"}
truth = ds.phantom()
ALL = ("nifti", "seg", "rtstruct")


def rounded_and_misstated(instances):
    """Directions that differ by rounding, no thickness, and another distance than the slices have."""
    for z, instance in enumerate(instances):
        instance.ImageOrientationPatient = [1, 1e-5 * z, 0, -1e-5 * z, 1, 0]
        instance.SpacingBetweenSlices = -5
        del instance.SliceThickness


def each_frame_for_itself(instances):
    """As Philips writes MR: what all frames have alike is said by each."""
    (whole,) = instances
    shared = whole.SharedFunctionalGroupsSequence[0]
    for group in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        for frame in whole.PerFrameFunctionalGroupsSequence:
            frame[group] = deepcopy(shared[group])
        del shared[group]


# The orientation of the slices, and whether the files' order, the frames' order, the modality or more is another one.
SCANS = {
    "axial": {},
    "coronal": {"axes": ds.CORONAL},
    "oblique": {"axes": ds.oblique()},
    "numbered from the top": {"reverse": True},
    "MR": {"modality": "MR", "axes": ds.oblique().T},
    "multi-frame": {"order": [3, 1, 0, 6, 5, 2, 4], "axes": ds.oblique()},
    "multi-frame MR": {"order": [6, 5, 4, 3, 2, 1, 0], "modality": "MR", "change": each_frame_for_itself},
    "misstated": {"change": rounded_and_misstated},
}


def write_scan(folder, *, axes=ds.AXIAL, modality="CT", reverse=False, order=None, change=lambda _: None):
    values = ds.values_of(truth)
    if order is not None:
        instances = [ds.enhanced(values, order, axes=axes, modality=modality)]
    else:
        instances = ds.slices(values, axes=axes, modality=modality)
    change(instances)
    if reverse:
        for number, instance in enumerate(reversed(instances)):
            instance.InstanceNumber = number + 1
    return ds.write(instances, folder)


@pytest.fixture(scope="module")
def predicted(model, mr_model, tmp_path_factory):
    """predicted(name): the study, the results, and the grid of the scan, from indices to mm."""

    @cache
    def predict(name):
        options = SCANS[name]
        root = tmp_path_factory.mktemp("scan")
        study = write_scan(root / "study", **options)
        of = mr_model if options.get("modality") == "MR" else model
        predict_dicom(study, root / "results", of, outputs=ALL, device="cpu")
        return study, root / "results", affine(options.get("axes", ds.AXIAL), ds.SPACING_MM, ds.ORIGIN_MM)

    return predict


@pytest.mark.parametrize("name", SCANS)
def test_labels_lie_where_the_voxels_were(predicted, name):
    study, results, to_mm = predicted(name)
    written = sitk.ReadImage(str(results / "segmentation.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), truth)
    for index in ((0, 0, 0), (21, 0, 0), (0, 25, 0), (0, 0, 6), (21, 25, 6)):
        mm = written.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(mm, (to_mm @ [*index, 1])[:3], atol=1e-4)
    if len(list(study.iterdir())) > 1:  # ITK knows no place of an enhanced instance's frames
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study)))
        itks = reader.Execute()
        assert written.GetSize() == itks.GetSize()
        for of in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(written, of)(), getattr(itks, of)(), atol=1e-5)

    assert hd.seg.segread(results / "segmentation.dcm").number_of_segments == 2
    masks = read_segmentation(results / "segmentation.dcm", to_mm, truth.shape)
    structures = read_structures(results / "structures.dcm", to_mm, truth.shape)
    for value, label in NAMES.items():
        np.testing.assert_array_equal(masks[label], truth == value)
        assert dice(structures[label], truth == value) >= 0.98


@pytest.mark.parametrize("name", SCANS)
def test_dciodvfy_reports_no_error(predicted, name):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy, of Debian's dicom3tools, is not installed")
    _, results, _ = predicted(name)
    for file in ("segmentation.dcm", "structures.dcm"):
        assert errors_of_dciodvfy(results / file) == []


@pytest.mark.parametrize("name", ["axial", "coronal", "oblique", "multi-frame", "misstated"])
def test_dcmqi_reads_the_same_voxels(predicted, tmp_path, name):
    program = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("dcmqi is not installed")
    _, results, _ = predicted(name)
    segmentation = str(results / "segmentation.dcm")
    subprocess.run(
        [program, "--inputDICOM", segmentation, "--outputDirectory", str(tmp_path), "--outputType", "nii"],
        check=True, capture_output=True,
    )  # fmt: skip
    written = sitk.ReadImage(str(results / "segmentation.nii.gz"))
    for value in NAMES:
        found = sitk.ReadImage(str(tmp_path / f"{value}.nii.gz"))
        on_grid = sitk.Resample(found, written, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(on_grid) > 0, truth == value)


@pytest.mark.parametrize("name", ["axial", "multi-frame"])
def test_segmentation_names_its_sources_and_its_algorithm(predicted, model, name):
    study, results, _ = predicted(name)
    sources = [dcmread(file) for file in study.iterdir()]
    checksum = sha256_of(model / "fold_0" / "checkpoint_final.pth")
    segmentation, structures = (dcmread(results / file) for file in ("segmentation.dcm", "structures.dcm"))
    for written in (segmentation, structures):
        assert {k: str(written[k].value) for k in ds.PATIENT} == ds.PATIENT
        assert written.StudyInstanceUID == sources[0].StudyInstanceUID
        assert written.SeriesInstanceUID != sources[0].SeriesInstanceUID
        assert written.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == sources[0].SeriesInstanceUID
    referenced = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referenced == {source.SOPInstanceUID for source in sources}
    study_item = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    images = study_item.RTReferencedSeriesSequence[0].ContourImageSequence
    assert len(images) == len(truth)
    assert {item.ReferencedSOPInstanceUID for item in images} == {source.SOPInstanceUID for source in sources}

    liver, other = segmentation.SegmentSequence
    assert (liver.SegmentLabel, other.SegmentLabel) == ("liver", "my_label")
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"  # SNOMED CT's liver structure
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmSource, algorithm.AlgorithmName) == ("nnunetv2_dsvm", "nnUNetTrainerThreshold")
    for said in ("plans=nnUNetPlans", "configuration=2d", "dataset=Dataset950_Thresholds", "folds=0", checksum):
        assert said in str(algorithm.AlgorithmParameters)
    assert checksum in structures.StructureSetDescription


def test_tables_and_picture(predicted):
    _, results, _ = predicted("oblique")
    ml = {name: (truth == value).sum() * np.prod(ds.SPACING_MM) / 1000 for value, name in NAMES.items()}
    about = json.loads((results / "volumes.json").read_text())
    assert [entry["label"] for entry in about["labels"]] == [*NAMES.values()]
    for entry in about["labels"]:
        assert entry["voxels"] == (truth == entry["values"][0]).sum()
        assert entry["volume_ml"] == pytest.approx(ml[entry["label"]], rel=1e-5)
    with open(results / "volumes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["volume_ml"]) for row in rows] == pytest.approx([*ml.values()], rel=1e-5)
    assert about["algorithm"]["trainer"] == "nnUNetTrainerThreshold" and about["slices"] == len(truth)
    with Image.open(results / "overlay.png") as picture:
        assert min(picture.size) > 100


def test_folds_and_zip_of_nnunet_s_export(tmp_path, monkeypatch, capsys):
    """Two folds of which one sees a label everywhere: together they give the mean of both."""
    folder = make_threshold_model(tmp_path / "Dataset950_Thresholds", folds=(0, 1))
    file = folder / "fold_1" / "checkpoint_final.pth"
    stored = torch.load(file, weights_only=True)
    stored["network_weights"]["bias"] += torch.tensor([0.0, 40, 0])  # label 1 wherever fold 1 decides
    torch.save(stored, file)
    (folder / "dataset_fingerprint.json").touch()
    for fold in ("fold_0", "fold_1"):  # what nnU-Net puts into the zip too
        (folder / fold / "validation").mkdir()
        for name in ("progress.png", "validation/summary.json"):
            (folder / fold / name).touch()
        shutil.copy(folder / fold / "checkpoint_final.pth", folder / fold / "checkpoint_best.pth")
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    export_pretrained_model(
        "Dataset950_Thresholds", str(tmp_path / "model.zip"), ("2d",), "nnUNetTrainerThreshold", folds=(0, 1),
        save_checkpoints=("checkpoint_final.pth", "checkpoint_best.pth"),
    )  # fmt: skip
    capsys.readouterr()
    study = write_scan(tmp_path / "study")
    shares = {}
    for name, folds in {"0": ["0"], "1": ["1"], "both": ["0", "1"], "all that are there": []}.items():
        arguments = ["-i", study, "-m", tmp_path / "model.zip", "-o", tmp_path / name, "-device", "cpu"]
        options = ["--output", "nifti", *(["-f", *folds] if folds else []), *(["-chk", BEST] if name == "0" else [])]
        assert main(["predict_dicom", *map(str, arguments), *options]) == 0
        shares[name] = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "segmentation.nii.gz")))
    np.testing.assert_array_equal(shares["0"], truth)
    assert (shares["1"] == 1).all() and (shares["both"] == 1).all()
    np.testing.assert_array_equal(shares["all that are there"], shares["both"])
    printed = capsys.readouterr()
    assert "fold 0, 1 on cpu" in printed.err and "liver" in printed.out
    monkeypatch.chdir(tmp_path)
    run_example(nnunetv2_dsvm.predict_dicom)  # with this study and this zip
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == [
        "overlay.png", "segmentation.nii.gz", "volumes.csv", "volumes.json"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["regions", "3d", "old trainer", "nibabel", "reoriented", "other spacing"])
def test_models_of_other_kinds(tmp_path, kind):
    options = {
        "regions": {"labels": {"background": 0, "whole": [1, 2], "core": 2}},
        "3d": {"spacing_mm": (2.5, 1.1, 0.8)},
        "old trainer": {"trainer": nnUNetTrainerOfOldNnUNet},
        "nibabel": {"reader": "NibabelIO"},
        "reoriented": {"reader": "NibabelIOWithReorient"},
        "other spacing": {"spacing_mm": (0.55, 0.4)},
    }[kind]
    study = write_scan(tmp_path / "study", axes=ds.oblique())
    predict_dicom(study, tmp_path / "out", make_threshold_model(tmp_path / "model", **options), device="cpu")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz")))
    to_mm = affine(ds.oblique(), ds.SPACING_MM, ds.ORIGIN_MM)
    masks = read_segmentation(tmp_path / "out" / "segmentation.dcm", to_mm, truth.shape)
    assert errors_of_dciodvfy(tmp_path / "out" / "segmentation.dcm") == []
    if kind == "other spacing":  # interpolated by nnU-Net
        assert dice(labels > 0, truth > 0) > 0.8
        np.testing.assert_array_equal(masks["liver"], labels == 1)
    elif kind == "regions":
        np.testing.assert_array_equal(masks["whole"], truth > 0)  # which overlaps the other
        np.testing.assert_array_equal(masks["core"], truth == 2)
    else:
        np.testing.assert_array_equal(labels, truth)
        np.testing.assert_array_equal(masks["my_label"], truth == 2)


def test_a_trainer_of_ours_predicts_as_nnunet_does(tmp_path):
    """Beside nnU-Net's own loading of the model, on the image that ITK makes of the series."""
    architecture = {
        "network_class_name": "nnunetv2_dsvm.architecture.vm_unet.VMUNet",
        "arch_kwargs": NETWORK,
        "_kw_requires_import": [],
    }
    folder = make_threshold_model(tmp_path / "model", trainer=nnUNetTrainerDSVM, architecture=architecture)
    file = folder / "fold_0" / "checkpoint_final.pth"
    network = VMUNet(1, 3, deep_supervision=False, **NETWORK)
    torch.save(torch.load(file, weights_only=True) | {"network_weights": network.state_dict()}, file)
    study = write_scan(tmp_path / "study", axes=ds.CORONAL)
    predict_dicom(study, tmp_path / "out", folder, outputs=["nifti"], device="cpu")

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study)))
    image = reader.Execute()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    values = sitk.GetArrayFromImage(image)[None].astype(np.float32)
    expected = predictor.predict_single_npy_array(values, {"spacing": image.GetSpacing()[::-1]})
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz")))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("form", ["PNG", "NIfTI", "grey PNG"])
def test_a_still(colour_model, tmp_path, form):
    rgb = np.repeat(ds.values_of(truth)[2, ..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)
    rgb[..., 0] -= rgb[..., 0] // 4  # the colours differ, and the model takes their mean
    of, pixels = colour_model, rgb
    if form == "NIfTI":
        of = make_threshold_model(tmp_path / "model", channels=("R", "G", "B"), spacing_mm=(1.0, 1.0))
    elif form == "grey PNG":
        how = {"channels": ("grey",), "file_ending": ".png", "reader": "NaturalImage2DIO", "spacing_mm": (1.0, 1.0)}
        of, pixels = make_threshold_model(tmp_path / "model", **how), rgb[..., 1]
    file = ds.write([ds.still(pixels)], tmp_path / "study") / "000.dcm"
    prediction = predict_dicom(file, tmp_path / "out", of, device="cpu")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz")))
    mean = pixels.mean(-1) if pixels.ndim == 3 else pixels
    np.testing.assert_array_equal(labels[0], np.digitize(mean, [75, 150]))
    assert [volume["volume_ml"] for volume in prediction.volumes] == [None, None]
    stored = dcmread(tmp_path / "out" / "segmentation.dcm")
    frames = np.reshape(stored.pixel_array, (-1, *rgb.shape[:2]))
    for groups, frame in zip(stored.PerFrameFunctionalGroupsSequence, frames, strict=True):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(frame, labels[0] == number)
    assert errors_of_dciodvfy(tmp_path / "out" / "segmentation.dcm") == []


def test_a_tilted_gantry_is_straightened_on_request(model, tmp_path):
    """The network sees the straight volume; SEG, RTSTRUCT and volumes are of the slices as they were scanned."""
    instances = ds.slices(ds.values_of(truth))
    for z, instance in enumerate(instances):  # two rows and a column of pixels from each slice to the next
        shift = 2 * ds.SPACING_MM[1] * ds.AXIAL[1] - ds.SPACING_MM[0] * ds.AXIAL[0]
        ds.place(instance, ds.ORIGIN_MM + z * (ds.SPACING_MM[2] * ds.AXIAL[2] + shift))
    study = ds.write(instances, tmp_path / "study")
    prediction = predict_dicom(study, tmp_path / "out", model, outputs=ALL, resample=True, device="cpu")
    assert "tilted by 43" in prediction.notes[0]  # atan(hypot(2.2, 0.8) / 2.5)
    written = sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz"))
    straight = np.zeros((7, 26 + 12, 22 + 6), np.uint8)
    for z in range(7):
        straight[z, 2 * z : 2 * z + 26, 6 - z : 28 - z] = truth[z]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), straight)
    np.testing.assert_allclose(written.GetOrigin(), ds.ORIGIN_MM - [6 * 0.8, 0, 0], atol=1e-4)
    stored = dcmread(tmp_path / "out" / "segmentation.dcm")
    to_mm = affine(ds.AXIAL, ds.SPACING_MM, ds.ORIGIN_MM - np.array([6 * 0.8, 0, 0]))
    structures = read_structures(tmp_path / "out" / "structures.dcm", to_mm, straight.shape)
    for value, name in NAMES.items():
        assert dice(structures[name], straight == value) >= 0.98
        masks = read_segmentation(tmp_path / "out" / "segmentation.dcm", to_mm, straight.shape)
        np.testing.assert_array_equal(masks[name], straight == value)
    assert (stored.Rows, stored.Columns) == truth.shape[1:]
    assert errors_of_dciodvfy(prediction.files[1]) == errors_of_dciodvfy(prediction.files[2]) == []
    assert [volume["voxels"] for volume in prediction.volumes] == [(truth == value).sum() for value in NAMES]


def test_earlier_results_are_replaced_on_request_and_none_is_left_beside_new_ones(model, tmp_path):
    study = write_scan(tmp_path / "study")
    out = tmp_path / "out"
    predict_dicom(study, out, model, outputs=ALL, device="cpu")
    (out / "mine.txt").touch()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    arguments = ["predict_dicom", "-i", str(study), "-o", str(out), "-m", str(model), "-device", "cpu"]
    assert main(arguments) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([*arguments, "--overwrite", "--output", "nifti"]) == 0
    assert sorted({path.name for path in out.iterdir()}) == sorted(
        before.keys() - {"segmentation.dcm", "structures.dcm"}
    )


def test_a_folder_in_the_place_of_a_result_and_another_run_that_ended_first(model, tmp_path, monkeypatch):
    study, out = write_scan(tmp_path / "study"), tmp_path / "out"
    (out / "volumes.csv").mkdir(parents=True)
    with pytest.raises(UserError, match="holds volumes.csv, which is no file"):
        predict_dicom(study, out, model, overwrite=True, device="cpu")
    assert [path.name for path in out.iterdir()] == ["volumes.csv"]
    (out / "volumes.csv").rmdir()
    algorithm_of = run_of_dicom.algorithm_of

    def after_another_run(of):
        (out / "segmentation.dcm").write_text("of another run")
        return algorithm_of(of)

    monkeypatch.setattr(run_of_dicom, "algorithm_of", after_another_run)
    with pytest.raises(UserError, match="holds segmentation.dcm already"):
        predict_dicom(study, out, model, device="cpu")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"segmentation.dcm": "of another run"}


def test_nothing_found(model, tmp_path):
    study = ds.write(ds.slices(np.zeros(truth.shape, np.int16)), tmp_path / "study")
    prediction = predict_dicom(study, tmp_path / "out", model, outputs=ALL, device="cpu")
    assert prediction.notes == ("The model found none of its labels.",)
    assert [volume["voxels"] for volume in prediction.volumes] == [0, 0]
    assert errors_of_dciodvfy(prediction.files[1]) == errors_of_dciodvfy(prediction.files[2]) == []
    to_mm = affine(ds.AXIAL, ds.SPACING_MM, ds.ORIGIN_MM)
    assert not any(m.any() for m in read_segmentation(prediction.files[1], to_mm, truth.shape).values())
    assert not any(m.any() for m in read_structures(prediction.files[2], to_mm, truth.shape).values())
