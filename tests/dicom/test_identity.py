"""Whose scan it is stays in the DICOM objects, and nothing of it is left on the disk, also by a run that is killed."""

import os
import subprocess
import sys
import time

import pytest
from helpers import dicom_series as ds
from helpers.threshold_model import make_threshold_model, nnUNetTrainerAsleep
from pydicom import dcmread

from nnunetv2_dsvm import predict_dicom
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.dicom.reading.sources import leniently

VALUES = ds.values_of(ds.phantom())
# Values that break the standard's rules, which libraries warn of and quote.
BROKEN = {
    "PatientBirthDate": "Zaphod 1952",
    "PatientID": f"PID-42{'x' * 80}",
    "PatientSex": "Zaphod's",
    "PatientName": "Zaphod^a^b^c^d^e^f=g=h=i",
    "StudyDate": "ACC-77",
    "StudyTime": "Betelgeuse",
}


@pytest.fixture
def study(tmp_path):
    with leniently():
        return ds.write(ds.slices(VALUES, **BROKEN), tmp_path / "study")


@pytest.mark.parametrize("keep", [False, True], ids=["without", "keep-identity"])
def test_nothing_of_the_patient_is_said_or_written(study, model, tmp_path, capsys, caplog, recwarn, keep):
    uids = [str(dcmread(study / "000.dcm", specific_tags=[name])[name].value)
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]  # fmt: skip
    arguments = ["-i", str(study), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    options = ["--output", "nifti", "seg", "rtstruct", *(["--keep-identity"] if keep else [])]
    caplog.set_level(0)
    assert main(["predict_dicom", *arguments, *options]) == 0
    printed = capsys.readouterr()
    said = [printed.out, printed.err, caplog.text, *(str(warning.message) for warning in recwarn)]
    files = [path for path in (tmp_path / "out").rglob("*") if path.suffix != ".dcm"]
    said += [path.name for path in files] + [path.read_bytes().decode("latin-1") for path in files]
    secrets = [*ds.SECRETS, *uids]
    found = {secret for secret in secrets if any(secret in text for text in said)}
    if keep:
        assert {ds.SECRETS[0], ds.SECRETS[1], uids[1]} <= found
    else:
        assert not found
    for name in ("segmentation.dcm", "structures.dcm"):
        with leniently():
            written = dcmread(tmp_path / "out" / name)
            assert {keyword: str(written[keyword].value) for keyword in BROKEN} == BROKEN


def test_names_in_other_letters(tmp_path):
    labels = {"background": 0, "Läsion": 1, "肝臓\n": 2}
    of = make_threshold_model(tmp_path / "model", labels=labels)
    slices = ds.slices(VALUES, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    study = ds.write(slices, tmp_path / "study")
    out = tmp_path / "out"
    predict_dicom(study, out, of, outputs=["seg", "rtstruct"], device="cpu")
    segmentation, structures = (dcmread(out / name) for name in ("segmentation.dcm", "structures.dcm"))
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == [
        "Läsion",
        "肝臓",
    ]  # without the line's end
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == ["Läsion", "肝臓"]
    assert segmentation.PatientName == structures.PatientName == "Müller^Jörg"


@pytest.mark.parametrize("characters", [["", "ISO 2022 IR 87"], "nonsense"])
def test_character_sets_of_the_source(model, tmp_path, characters):
    """Of which highdicom knows neither: the standard's empty first value, and one that is none."""
    with leniently():
        name = "Yamada^Tarou=山田^太郎" if isinstance(characters, list) else "Yamada^Tarou"
        study = ds.write(ds.slices(VALUES, SpecificCharacterSet=characters, PatientName=name), tmp_path / "study")
        predict_dicom(study, tmp_path / "out", model, outputs=["seg", "rtstruct"], device="cpu")
        for file in ("segmentation.dcm", "structures.dcm"):
            assert dcmread(tmp_path / "out" / file).PatientName == name


def test_a_picture_that_names_the_patient_is_not_copied(model, tmp_path):
    study = ds.write(ds.slices(VALUES, BurnedInAnnotation="YES"), tmp_path / "study")
    for keep in (False, True):
        out = tmp_path / str(keep)
        prediction = predict_dicom(study, out, model, outputs=["nifti"], keep_identity=keep, device="cpu")
        assert (out / "overlay.png").exists() == keep
        assert any("burned into them" in note for note in prediction.notes) != keep


def test_a_killed_run_leaves_nothing_of_the_scan(tmp_path):
    of = make_threshold_model(tmp_path / "model", trainer=nnUNetTrainerAsleep)
    study, out = ds.write(ds.slices(VALUES), tmp_path / "study"), tmp_path / "out"
    before = set(tmp_path.iterdir())
    call = ["predict_dicom", "-i", str(study), "-o", str(out), "-m", str(of), "-device", "cpu"]
    scratch = tmp_path / "scratch"  # where a process would put temporary files
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "nnunetv2_dsvm.cli.main", *call],
        env={**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: list(out.glob(".partial_*/images/image_0000.nii.gz")), process)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not list(out.iterdir()))
    assert set(tmp_path.iterdir()) == before | {out, scratch}
    left = [path for path in scratch.rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix in (".dcm", ".gz", ".nii", ".png")]


def wait_for(condition, process=None, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        assert process is None or process.poll() is None, "the process has ended"
        time.sleep(0.1)
