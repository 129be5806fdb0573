"""Series and models that are refused, each by a sentence that says what and where; nothing is left behind."""

import json
import shutil
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import dicom_series as ds
from helpers.runs_code import RunsCode
from helpers.threshold_model import make_threshold_model
from pydicom import Dataset, uid
from pydicom.uid import generate_uid

from nnunetv2_dsvm import predict_dicom
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.dicom import api
from nnunetv2_dsvm.dicom.reading.sources import headers
from nnunetv2_dsvm.errors import UserError

VALUES = ds.values_of(ds.phantom())


def missing(slices):
    del slices[3]


def two_missing_at_two_places(slices):
    del slices[5], slices[1]


def duplicate_of_a_file(slices):
    slices.append(deepcopy(slices[2]))


def two_at_one_place(slices):
    slices.append(deepcopy(slices[2]))
    slices[-1].SOPInstanceUID, slices[-1].InstanceNumber = generate_uid(), 8


def repeated(slices):
    for instance in deepcopy(slices):
        instance.SOPInstanceUID, instance.InstanceNumber = generate_uid(), 10 + instance.InstanceNumber
        slices.append(instance)


def repeated_as_another_acquisition(slices):
    repeated(slices)
    for instance in slices[7:]:
        instance.AcquisitionNumber = 2


def interleaved_acquisitions(slices):
    """Half a slice apart: the whole is regular."""
    repeated_as_another_acquisition(slices)
    for instance in slices[7:]:
        ds.place(instance, np.array(instance.ImagePositionPatient, float) + 1.25 * ds.AXIAL[2])


def tilted(slices):
    for z, instance in enumerate(slices):
        ds.place(instance, ds.ORIGIN_MM + z * np.array([0, 0.7, 2.5]))


def one_beside_the_others(slices):
    ds.place(slices[4], ds.ORIGIN_MM + np.array([0.5, 0, 4 * 2.5]))


def a_localizer_among_them(slices):
    slices[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def across(slices):
    slices[6].ImageOrientationPatient = ds.CORONAL[:2].ravel().tolist()


def only_localizers(slices):
    for instance in slices:
        instance.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def of_two_sizes(slices):
    ds.set_pixels(slices[5], np.zeros((20, 20), np.uint16))


def of_two_pixel_spacings(slices):
    slices[5].PixelSpacing = [1.2, 0.8]


def no_position(slices):
    del slices[1].ImagePositionPatient


def no_number(slices):
    slices[1].ImagePositionPatient = [0, 0, float("nan")]


def skewed_axes(slices):
    for instance in slices:
        instance.ImageOrientationPatient = [1, 0, 0, 0.2, 0.9, 0]


def two_multi_frames(slices):
    first, second = (ds.enhanced(VALUES, range(7)) for _ in range(2))
    second.SeriesInstanceUID = first.SeriesInstanceUID
    slices[:] = [first, second]


def undescribed_frames(slices):
    whole = ds.enhanced(VALUES, range(7))
    del whole.PerFrameFunctionalGroupsSequence
    slices[:] = [whole]


def frames_missing(slices):
    slices[:] = [ds.enhanced(VALUES[[0, 1, 2, 4, 5, 6]], range(6))]
    for frame, z in zip(slices[0].PerFrameFunctionalGroupsSequence, (0, 1, 2, 4, 5, 6), strict=True):
        ds.place(frame.PlanePositionSequence[0], ds.ORIGIN_MM + z * np.array([0, 0, 2.5]))


def only_one_of_no_thickness(slices):
    del slices[1:]
    del slices[0].SliceThickness


def truncated(slices):
    slices[3].PixelData = slices[3].PixelData[:100]


def no_frame_of_reference(slices):
    for instance in slices:
        del instance.FrameOfReferenceUID


def of_mr(slices):
    slices[:] = ds.slices(VALUES, modality="MR")


def no_image(slices):
    for instance in slices:
        instance.SOPClassUID, instance.Modality = uid.EncapsulatedPDFStorage, "DOC"


def still(slices):
    slices[:] = [ds.still(np.zeros((20, 20, 3), np.uint8))]


def of_two_frames_of_reference(slices):
    slices[4].FrameOfReferenceUID = generate_uid()


def of_two_studies(slices):
    slices[5].StudyInstanceUID = slices[6].StudyInstanceUID = generate_uid()


def of_two_patients(slices):
    slices[2].PatientID = f"{ds.SECRETS[1]}-b"


def values_by_a_table(slices):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [4, 0, 16], "HU", bytes(8)
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    slices[1].ModalityLUTSequence = [table]


def multi_frames_of_a_frame_each(slices):
    for z, single in enumerate(slices):
        slices[z] = ds.enhanced(VALUES[z : z + 1], [0])
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            slices[z][keyword] = single[keyword]
        slices[z].PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[
            0
        ].ImagePositionPatient = single.ImagePositionPatient


def no_rows(slices):
    for instance in slices:
        instance.Rows = None


def two_uids(slices):
    slices[3].SeriesInstanceUID = ["1.2.3", "1.2.4"]


def irregular(slices):
    for z, instance in enumerate(slices):
        ds.place(instance, ds.ORIGIN_MM + (2.5 * z + (0.9 if z == 2 else 0)) * ds.AXIAL[2])


REFUSALS = {
    missing: "series 3 misses 1 slice: between instance 3 and instance 5 are 5 mm, elsewhere 2.5 mm",
    two_missing_at_two_places: "misses 2 slices: between instance 1 and instance 3 are 5 mm",
    frames_missing: "misses 1 slice: between frame 3 and frame 4 are 5 mm",
    duplicate_of_a_file: "series 3 holds duplicates: instance 3 is there more than once",
    two_at_one_place: "holds duplicates: instance 3 and instance 8 lie at the same place",
    repeated: "holds 2 acquisitions: each of its 7 places has so many slices",
    repeated_as_another_acquisition: r"holds 2 acquisitions \(numbers 1, 2\) of one region",
    interleaved_acquisitions: r"holds 2 acquisitions \(numbers 1, 2\) of one region",
    tilted: r"tilted gantry, by 15.6 degrees from instance 1 to instance 7.*--resample",  # atan(0.7 / 2.5)
    one_beside_the_others: "do not lie on one line: instance 5 is 0.62 pixels beside it",  # 0.5 mm of 0.8 mm
    a_localizer_among_them: "holds instance 1 as a localizer, beside 6 slices",
    only_localizers: r"no series can be segmented; there is:\n  3 +CT +7 +22×26 +a localizer",
    across: "not parallel, as localizers and several stacks in one series are: instance 7 lie across instance 1",
    of_two_sizes: "two sizes: instance 1 has 22×26 pixels, instance 6 20×20",
    of_two_pixel_spacings: "inconsistent spacing of pixels: 1.1×0.8 mm in instance 1, another in instance 6",
    irregular: r"inconsistent spacing of slices: between instance 2 and instance 3 are 3.4 mm, elsewhere 2.5 mm",
    of_two_frames_of_reference: "of two frames of reference: instance 5 differs from instance 1",
    of_two_studies: "of two studies: instance 6, instance 7 differ from instance 1",
    of_two_patients: "of two patients: instance 3 differs from instance 1",
    values_by_a_table: "by a table instead of a slope and an intercept .ModalityLUTSequence., in instance 2",
    multi_frames_of_a_frame_each: "holds 7 multi-frame instances of one frame, and SEG refers to one",
    no_rows: r"no series can be segmented; there is:\n  3 +CT +7 +instance 1 is described by what is no number",
    two_uids: "is damaged .it has two values where a UID stands",
    no_position: "no place in space: instance 2 without position",
    no_number: r"instance 2 is described by what is no number \(ValueError\)",
    skewed_axes: "no usable orientation: image orientation 1, 0, 0, 0.2, 0.9, 0",
    two_multi_frames: "holds 2 multi-frame instances, expected one",
    undescribed_frames: "instance 1 holds 7 frames without saying where each lies",
    only_one_of_no_thickness: "a single slice that does not state its thickness",
    truncated: r"the pixels of instance 4 of series 3 cannot be read \(Explicit VR Little Endian; \w+\)",
    no_frame_of_reference: "series 3 lacks FrameOfReferenceUID, to which SEG and RTSTRUCT refer.*--output nifti",
    of_mr: "MR, and the model takes CT",
    no_image: "DOC +7 +22×26 +no CT, no MR and no still",
    still: r"3 channels, and the model takes 1 \(CT\)",
}


@pytest.mark.parametrize("change", REFUSALS, ids=lambda change: change.__name__)
def test_series(model, tmp_path, change):
    slices = ds.slices(VALUES)
    change(slices)
    study = ds.write(slices, tmp_path / "study")
    with pytest.raises(UserError, match=f"(?s){REFUSALS[change]}") as refused:
        predict_dicom(study, tmp_path / "new" / "out", model, device="cpu")
    assert not (tmp_path / "new").exists()
    assert not [secret for secret in ds.SECRETS if secret in str(refused.value)]


def test_channels_and_modalities_of_models(tmp_path, colour_model, mr_model):
    ct = ds.write(ds.slices(VALUES), tmp_path / "ct")
    photograph = ds.write([ds.still(np.zeros((20, 20, 3), np.uint8))], tmp_path / "photograph")
    grey = ds.write([ds.still(np.zeros((20, 20), np.uint8))], tmp_path / "grey")
    photographs = ds.write([ds.still(np.zeros((20, 20, 3), np.uint8), SeriesInstanceUID="1.2.3") for _ in range(3)],
                           tmp_path / "photographs")  # fmt: skip
    several = make_threshold_model(tmp_path / "several", channels=("T1", "T2"))
    three = make_threshold_model(tmp_path / "three", channels=("T1", "T2", "FLAIR"))
    for study, of, sentence in (
        (ct, mr_model, "CT, and the model takes MR_T2"),
        (ct, several, r"one channel, and the model takes 2 \(T1, T2\)"),
        (ct, colour_model, r"one channel, and the model takes 3 \(R, G, B\)"),
        (photograph, three, "still, and the model takes T1, T2, FLAIR"),
        (grey, colour_model, "1 channel, and the model takes 3"),
        (photographs, colour_model, "holds 3 stills, each an image of its own: name one file with -i"),
    ):
        with pytest.raises(UserError, match=sentence):
            predict_dicom(study, tmp_path / "out", of, device="cpu")
    with pytest.raises(UserError, match="is a still, which has no place in space for RTSTRUCT"):
        predict_dicom(photograph, tmp_path / "out", colour_model, outputs=["rtstruct"], device="cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return ds.write(ds.slices(VALUES), tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("no folder", "is not a trained model: it has no plans.json and no dataset.json"),
        ("no fold", "has no checkpoint_final.pth in fold 3; it is there in fold 0"),
        ("code", "was not loaded: it asks for"),
        ("no trainer", "the trainer nnUNetTrainerOfNobody of .* is not found: install its package"),
        ("another network", "does not fit the network that nnUNetTrainerThreshold builds"),
        ("cascade", "second stage of a cascade and needs the prediction of 3d_lowres"),
        ("zip of two", "holds 2 trained models .* expected one: unpack it"),
        ("zip of none", r"holds 0 trained models \(none\)"),
    ],
)
def test_models(study, tmp_path, kind, sentence):
    made = make_threshold_model(tmp_path / "made")
    file, folds, of = made / "fold_0" / "checkpoint_final.pth", None, made
    stored = torch.load(file, weights_only=True)
    if kind == "no folder":
        of = tmp_path
    elif kind == "no fold":
        folds = [0, 3]
    elif kind == "code":
        ran = tmp_path / "ran"
        torch.save(stored | {"logging": RunsCode(ran.touch)}, file)
    elif kind == "no trainer":
        torch.save(stored | {"trainer_name": "nnUNetTrainerOfNobody"}, file)
    elif kind == "another network":
        torch.save(stored | {"network_weights": {"weight": torch.zeros(3)}}, file)
    elif kind == "cascade":
        plans = json.loads((made / "plans.json").read_text())
        plans["configurations"]["2d"]["previous_stage"] = "3d_lowres"
        (made / "plans.json").write_text(json.dumps(plans))
    else:
        of = tmp_path / "model.zip"
        shutil.copytree(made, tmp_path / "made" / "nnUNetTrainer__nnUNetPlans__2d")
        with zipfile.ZipFile(of, "w") as archive:
            for path in (tmp_path / "made").rglob("*") if kind == "zip of two" else ():
                archive.write(path, path.relative_to(tmp_path))
    with pytest.raises(UserError, match=sentence):
        predict_dicom(study, tmp_path / "out", of, folds=folds, device="cpu")
    assert not (tmp_path / "out").exists() and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"spleen": {}}, "names spleen, and the model's labels are liver, my_label"),
        ({"liver": ["10200004", "SCT", "Liver"]}, 'expected {"type": …}'),
        ({"liver": {"type": ["10200004", "SCT"]}}, r"expected \[value, scheme, meaning\]"),
        ({"liver": {"type": ["1" * 17, "SCT", "Liver"]}}, "texts of at most 16, 16 and 64 characters"),
        ({"liver": {"type": ["1\\2", "SCT", "Liver"]}}, "without backslashes"),
        ({"liver": {"type": ["1", "SCT", "Li\nver"]}}, "and line breaks"),
        ({"liver": {"type": [" ", "SCT", "Liver"]}}, r"expected \[value, scheme, meaning\]"),
        ([], "holds no JSON object"),
    ],
)
def test_terminologies(study, model, tmp_path, content, sentence):
    (tmp_path / "terms.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        predict_dicom(study, tmp_path / "out", model, terminology=tmp_path / "terms.json", device="cpu")


def test_what_is_no_study(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.write(tmp_path / "texts" / "a.txt", "a.txt")
    for name, sentence in {
        "nowhere": "there is no file or folder",
        "empty": "holds no DICOM file (no file at all)",
        "texts": "holds no DICOM file (1 other file)",
        "texts/a.txt": "holds no DICOM file (1 other file)",
        "texts.zip": "holds no DICOM file (1 other file)",
    }.items():
        arguments = ["-i", str(tmp_path / name), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
        assert main(["predict_dicom", *arguments]) == 1
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, 10, 140, 300, 600])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_is_cut_off(tmp_path, size, zipped):
    """The last slice, whose absence would not be seen."""
    study = ds.write(ds.slices(VALUES), tmp_path / "study")
    (study / "006.dcm").write_bytes((study / "006.dcm").read_bytes()[:size])
    if zipped:
        study = shutil.make_archive(str(tmp_path / "study"), "zip", study)
    with pytest.raises(UserError, match="a DICOM file of .* is damaged"):
        headers(Path(study))


@pytest.mark.parametrize("missing", ["pydicom", "highdicom"])
def test_without_the_extra(study, model, tmp_path, monkeypatch, missing):
    monkeypatch.setattr(api, "find_spec", lambda name: None if name == missing else True)
    with pytest.raises(UserError, match=rf"{missing} is missing.*pip install 'nnunetv2_dsvm\[dicom\]'"):
        predict_dicom(study, tmp_path / "out", model, device="cpu")


def test_choices(study, model, tmp_path):
    with pytest.raises(UserError, match="unknown output 'SEG': choose one of nifti, seg, rtstruct"):
        predict_dicom(study, tmp_path / "out", model, outputs=["SEG"], device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="-device cuda: torch .* finds no usable .*Use -device cpu"):
            predict_dicom(study, tmp_path / "out", model)
