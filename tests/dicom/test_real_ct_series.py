"""The DICOM series that the quickstart fetches: 20 slices of CT in JPEG 2000."""

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.dicom_readers import dice, errors_of_dciodvfy, read_segmentation, read_structures
from helpers.threshold_model import make_threshold_model
from pydicom import dcmread
from pydicom.uid import generate_uid

from nnunetv2_dsvm import predict_dicom
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.quickstart import totalsegmentator_example as example
from nnunetv2_dsvm.quickstart.source_archive import extract, fetch


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """From the archive in the quickstart's cache, or fetched."""
    try:
        archive = fetch(example.ARCHIVE)
    except UserError as error:
        pytest.skip(f"the CT could not be fetched: {str(error).split('. ')[0]}")
    folder = tmp_path_factory.mktemp("archive")
    place = f"{example.REFERENCE_FILES}/{example.PATIENT_B[0]}"
    extract(archive, lambda path: path.startswith(f"{place}/"), folder)
    return folder / place


@pytest.mark.slow
def test_from_jpeg_2000_to_every_output(series, tmp_path):
    """Labels by thresholds of the values that ITK reads: 0 below 475 HU, 1, 2 above 550 HU: cortex of bones."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    image = reader.Execute()
    values = sitk.GetArrayFromImage(image)
    assert len(values) == 20
    assert "2000" in dcmread(next(series.iterdir())).file_meta.TransferSyntaxUID.name
    in_plane = [float(length) for length in image.GetSpacing()[1::-1]]
    of = make_threshold_model(tmp_path / "model", spacing_mm=in_plane, patch_size=[512, 512], shift=400)
    with pytest.raises(UserError, match="the series without a number lacks StudyInstanceUID, SeriesInstanceUID"):
        predict_dicom(series, tmp_path / "out", of, device="cpu")  # they were emptied with the patient's name
    study = generate_uid(), generate_uid()
    (tmp_path / "study").mkdir()
    for file in series.iterdir():
        instance = dcmread(file)
        instance.StudyInstanceUID, instance.SeriesInstanceUID = study
        instance.save_as(tmp_path / "study" / file.name)
    predict_dicom(tmp_path / "study", tmp_path / "out", of, outputs=["nifti", "seg", "rtstruct"], device="cpu")

    written = sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz"))
    for name in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(written, name)(), getattr(image, name)(), atol=1e-4)
    labels = sitk.GetArrayFromImage(written)
    clear = np.min([np.abs(values - 475), np.abs(values - 550)], axis=0) > 2  # half precision in nnU-Net's window
    np.testing.assert_array_equal(labels[clear], np.digitize(values, [475, 550])[clear])
    assert {1, 2} <= set(np.unique(labels))

    to_mm = np.eye(4)
    to_mm[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    to_mm[:3, 3] = image.GetOrigin()
    masks = read_segmentation(tmp_path / "out" / "segmentation.dcm", to_mm, labels.shape)
    structures = read_structures(tmp_path / "out" / "structures.dcm", to_mm, labels.shape)
    for value, name in {1: "liver", 2: "my_label"}.items():
        np.testing.assert_array_equal(masks[name], labels == value)
        assert dice(structures[name], labels == value) >= 0.98
    for name in ("segmentation.dcm", "structures.dcm"):
        assert errors_of_dciodvfy(tmp_path / "out" / name) == []
