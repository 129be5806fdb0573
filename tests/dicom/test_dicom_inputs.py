"""Which files a study is read from, which of its series is taken, and in which compressions."""

import io
import json
import logging
import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
from helpers import dicom_series as ds
from helpers.dicom_readers import errors_of_dciodvfy
from helpers.litter import scatter
from helpers.threshold_model import make_threshold_model
from PIL import Image
from pydicom import DataElement, dcmread, uid
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.uid import generate_uid

from nnunetv2_dsvm import predict_dicom
from nnunetv2_dsvm.dicom.api import predict_dicom as same_call
from nnunetv2_dsvm.dicom.fitting import fault_of
from nnunetv2_dsvm.dicom.model import open_model
from nnunetv2_dsvm.dicom.reading.scan import read_scan
from nnunetv2_dsvm.dicom.reading.series import choose, group_by_series
from nnunetv2_dsvm.dicom.reading.sources import headers, leniently
from nnunetv2_dsvm.errors import UserError

VALUES = ds.values_of(ds.phantom())
LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def read(place):
    """The scan that is taken of a study, of whatever can be segmented at all."""
    series, table = choose(group_by_series(headers(place)), None, lambda s: s.is_localizer or None if s.kind else "no")
    return read_scan(series, resample=False), table


def as_folder(root, instances):
    """Nested, mixed names, other files beside."""
    ds.write(instances[:3], root / "study" / "A1", "IM{:04d}")
    ds.write(instances[3:], root / "study" / "A1" / "deeper", "1.2.3.{}")
    (root / "study" / "report.txt").write_text("no image")
    scatter(root / "study")
    return root / "study"


def as_zip(root, instances):
    folder = as_folder(root, instances)
    with zipfile.ZipFile(root / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.rglob("*"):
            archive.write(path, f"export/{path.relative_to(folder)}")
    shutil.rmtree(folder)
    return root / "study.zip"


def as_disc(root, instances):
    """With a DICOMDIR, and more files than it names."""
    files = FileSet()
    for instance in instances:
        files.add(instance)
    files.write(root / "disc")
    ds.write(instances, root / "disc" / "more")
    return root / "disc" / "DICOMDIR"


def as_folder_of_a_disc(root, instances):
    place = as_disc(root, instances).parent
    shutil.rmtree(place / "more")
    return place


@pytest.mark.parametrize("form", [as_folder, as_zip, as_disc, as_folder_of_a_disc], ids=lambda form: form.__name__)
def test_forms(tmp_path, form):
    (tmp_path / "mixed").mkdir()
    instances = ds.slices(VALUES)
    place = form(tmp_path / "mixed", list(reversed(instances)))
    scan, _ = read(place)
    np.testing.assert_array_equal(scan.values[0], VALUES)
    assert [header.SOPInstanceUID for header in scan.series.headers] == [i.SOPInstanceUID for i in instances]


def test_numbers_that_are_none_and_uids_in_the_file_s_header_alone(tmp_path):
    """As some anonymisers leave a file."""
    instances = ds.slices(VALUES)
    with leniently():
        for instance in instances:
            for keyword in ("SeriesNumber", "InstanceNumber"):
                instance[keyword] = DataElement(keyword, "LO", "first")
                instance[keyword].VR = "IS"
        study = ds.write(instances, tmp_path / "study")
        for file in study.iterdir():
            stored = dcmread(file)
            stored.SOPClassUID = stored.SOPInstanceUID = ""
            stored.save_as(file, enforce_file_format=False)
        scan, table = read(study)
    np.testing.assert_array_equal(scan.values[0], VALUES)
    assert table.split() == ["first", "CT", "7", "22×26", "taken"]
    assert {header.SOPInstanceUID for header in scan.series.headers} == {i.SOPInstanceUID for i in instances}


def test_a_disc_that_lacks_files(tmp_path):
    place = as_disc(tmp_path, ds.slices(VALUES))
    next(path for path in sorted((tmp_path / "disc").rglob("*")) if path.is_file() and path != place).unlink()
    with pytest.raises(UserError, match="1 of the 7 files that .*DICOMDIR names are missing"):
        headers(place)


def write_study(folder):
    """A localizer, a CT, a segmentation, an MR."""
    study = generate_uid()
    ds.write(ds.slices(VALUES[:2], study=study, series_number=1, ImageType=LOCALIZER), folder, "l{}")
    ds.write(ds.slices(VALUES, study=study, series_number=2), folder, "ct{}")
    ds.write(ds.slices(VALUES, study=study, series_number=5, modality="MR"), folder, "mr{}")
    other = ds.slices(VALUES[:1], study=study, series_number=4)
    other[0].SOPClassUID, other[0].Modality = uid.SegmentationStorage, "SEG"
    ds.write(other, folder, "seg{}")
    return folder


def test_the_only_possible_series_is_taken_and_all_are_listed(model, tmp_path, caplog):
    study = write_study(tmp_path / "study")
    with caplog.at_level(logging.INFO, "nnunetv2_dsvm.dicom"):
        predict_dicom(study, tmp_path / "out", model, outputs=["nifti"], device="cpu")
    lines = [line.split() for line in caplog.text.splitlines() if line.startswith("  ")]
    assert lines == [
        ["1", "CT", "2", "22×26", "a", "localizer"],
        ["2", "CT", "7", "22×26", "taken"],
        ["4", "SEG", "1", "22×26", "no", "CT,", "no", "MR", "and", "no", "still"],
        ["5", "MR", "7", "22×26", "MR,", "and", "the", "model", "takes", "CT"],
    ]


def test_several_possible_series_need_a_choice(model, tmp_path):
    assert same_call is predict_dicom
    study = write_study(tmp_path / "study")
    second, third = ds.slices(VALUES + 50, series_number=3), ds.slices(VALUES + 90, series_number=3)
    ds.write(second, study, "second{}")
    opened = open_model(model, None, "checkpoint_final.pth", tmp_path)
    found = group_by_series(headers(study))

    def chosen(asked, **how):
        return choose(found, asked, lambda series: fault_of(series, opened), **how)[0]

    with pytest.raises(UserError, match=r"(?s)several series can be segmented: name one with --series.*\n  2 .*\n  3 "):
        chosen(None)
    assert chosen("3").uid == second[0].SeriesInstanceUID
    assert chosen(second[0].SeriesInstanceUID).number == "3"
    with pytest.raises(UserError, match="there is no such series"):
        chosen("9")
    with pytest.raises(UserError, match="series 1 cannot be segmented: a localizer"):
        chosen("1")
    ds.write(third, study, "third{}")
    found = group_by_series(headers(study))
    with pytest.raises(UserError, match="several series have the number 3: name one with --series, by its UID") as said:
        chosen("3")
    assert third[0].SeriesInstanceUID not in str(said.value)
    with pytest.raises(UserError, match=third[0].SeriesInstanceUID):
        chosen("3", with_identity=True)
    assert chosen(third[0].SeriesInstanceUID).uid == third[0].SeriesInstanceUID


@pytest.mark.parametrize(
    ("channel", "kinds"),
    [
        ("CT", ["CT"]), ("ct", ["CT"]), ("MR", ["MR"]), ("MRI", ["MR"]), ("T1w", ["MR"]), ("t2_flair", ["MR"]),
        ("ADC", ["MR"]), ("noNorm", ["CT", "MR"]), ("zscore", ["CT", "MR"]), ("scan", ["CT", "MR"]),
    ],
)  # fmt: skip
def test_modalities_by_the_name_of_the_channel(tmp_path, channel, kinds):
    place = make_threshold_model(tmp_path, channels=(channel,))
    opened = open_model(place, None, "checkpoint_final.pth", tmp_path)
    fitting = []
    for modality in ("CT", "MR"):
        (series,) = group_by_series([(None, instance) for instance in ds.slices(VALUES[:2], modality=modality)])
        fitting += [modality] if fault_of(series, opened) is None else []
    assert fitting == kinds


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless], ids=lambda s: s.name)
def test_compressed_slices(tmp_path, syntax):
    values = np.tile(VALUES[:3], (1, 2, 2))  # JPEG 2000 is of pictures of some size
    instances = ds.slices(values)
    for instance in instances:
        instance.compress(syntax, generate_instance_uid=False)
    scan, _ = read(ds.write(instances, tmp_path / "study"))
    np.testing.assert_array_equal(scan.values[0], values)


def test_jpeg_of_gdcm(tmp_path):
    """Lossless JPEG, which ITK's GDCM writes and pydicom does not."""
    image = sitk.GetImageFromArray(VALUES[2][None] + 1024)
    image.SetSpacing(ds.SPACING_MM)
    for key, value in {"0008|0060": "CT", "0008|0016": uid.CTImageStorage, "0020|0037": "1\\0\\0\\0\\1\\0",
                       "0020|0032": "0\\0\\0", "0018|0050": "2.5"}.items():  # fmt: skip
        image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.SetUseCompression(True)
    writer.KeepOriginalImageUIDOff()
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(tmp_path / "slice.dcm"))
    writer.Execute(image)
    assert dcmread(tmp_path / "slice.dcm").file_meta.TransferSyntaxUID.is_compressed
    scan, _ = read(tmp_path / "slice.dcm")
    np.testing.assert_array_equal(scan.values[0, 0], VALUES[2] + 1024)
    assert scan.grid.spacing == pytest.approx(ds.SPACING_MM)


def test_a_still_in_jpeg_s_colours(tmp_path):
    """YBR_FULL_422, as cameras write it, comes as red, green and blue."""
    rgb = np.zeros((32, 48, 3), np.uint8)
    rgb[..., 0], rgb[:16, :, 1] = 200, 90
    jpeg = io.BytesIO()
    Image.fromarray(rgb).save(jpeg, "JPEG", quality=95, subsampling=1)
    photograph = ds.still(rgb, PhotometricInterpretation="YBR_FULL_422")
    photograph.PixelData = encapsulate([jpeg.getvalue()])
    photograph["PixelData"].VR = "OB"
    photograph.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    scan, _ = read(ds.write([photograph], tmp_path / "study"))
    assert np.abs(scan.values[:, 0].astype(int) - np.moveaxis(rgb, -1, 0)).max() <= 8


def test_a_slope_of_its_own_in_each_slice(tmp_path):
    instances = ds.slices(VALUES, modality="MR")
    for z, instance in enumerate(instances):
        instance.RescaleSlope, instance.RescaleIntercept = 0.5 + z, -z
    scan, _ = read(ds.write(instances, tmp_path / "study"))
    expected = np.stack([(0.5 + z) * (of.astype(float) + 1024) - z for z, of in enumerate(VALUES)])
    np.testing.assert_allclose(scan.values[0], expected, rtol=1e-6)


def test_codes_of_a_file(model, tmp_path):
    study = ds.write(ds.slices(VALUES), tmp_path / "study")
    terms = {
        "my_label": {
            "type": ["64033007", "SCT", "Kidney"],
            "category": ["123037004", "SCT", "Body structure"],
            "modifier": ["1", "99OWN", "Línks"],
        }
    }
    (tmp_path / "terms.json").write_text(json.dumps(terms))
    results = predict_dicom(study, tmp_path / "out", model, terminology=tmp_path / "terms.json", device="cpu")
    assert errors_of_dciodvfy(results.files[1]) == []
    liver, kidney = dcmread(results.files[1]).SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
    (kind,), (category,) = kidney.SegmentedPropertyTypeCodeSequence, kidney.SegmentedPropertyCategoryCodeSequence
    assert (kind.CodeValue, category.CodeValue) == ("64033007", "123037004")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Línks"
