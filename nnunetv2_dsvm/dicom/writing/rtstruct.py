"""Labels as an RT structure set (RTSTRUCT): contours in the slices that were segmented.

Written by pydicom alone: rt-utils, the usual library, takes folders of single-frame instances only and needs OpenCV.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from nnunetv2_dsvm.dicom.reading.frames import Frame
from nnunetv2_dsvm.dicom.reading.scan import Scan
from nnunetv2_dsvm.dicom.writing.contours import outlines
from nnunetv2_dsvm.dicom.writing.origin import Algorithm, character_set, copy_patient_and_study, long_string

SERIES_NUMBER = 9002
DECIMALS = 4  # of mm


def write_rtstruct(
    path: Path,
    labels: np.ndarray,
    scan: Scan,
    *,
    foreground: Mapping[str, tuple[int, ...]],
    colours: Sequence[np.ndarray],
    algorithm: Algorithm,
) -> None:
    """
    Args:
        path: which nobody else reads yet.
        labels: `(z, y, x)`, on the slices of the series.
        foreground: label values of each structure, by the label's name.
        colours: RGB in 0 … 1, one per label.
    """
    header, now = scan.series.headers[0], datetime.now()
    written = Dataset()
    if (characters := character_set(header, [*foreground, *algorithm.texts])) is not None:
        written.SpecificCharacterSet = characters
    copy_patient_and_study(header, written)
    written.StudyInstanceUID = header.StudyInstanceUID
    written.SOPClassUID, written.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    written.Modality, written.SeriesInstanceUID, written.SeriesNumber = "RTSTRUCT", generate_uid(), SERIES_NUMBER
    written.SeriesDescription = long_string(f"Segmentation by {algorithm.trainer}")
    written.OperatorsName = ""
    written.Manufacturer, written.ManufacturerModelName = algorithm.package, long_string(algorithm.trainer)
    written.SoftwareVersions, written.DeviceSerialNumber = algorithm.version, algorithm.serial_number
    written.InstanceNumber = 1
    written.StructureSetLabel = "SEGMENTATION"
    written.StructureSetDescription = "; ".join(f"{key}={value}" for key, value in algorithm.as_json().items())[:1024]
    written.StructureSetDate = written.InstanceCreationDate = now.strftime("%Y%m%d")
    written.StructureSetTime = written.InstanceCreationTime = now.strftime("%H%M%S")
    written.FrameOfReferenceUID = header.FrameOfReferenceUID
    written.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "")
    written.ReferencedFrameOfReferenceSequence = [_frame_of_reference(scan)]
    written.StructureSetROISequence, written.ROIContourSequence = [], []
    written.RTROIObservationsSequence = []
    for number, ((name, values), colour) in enumerate(zip(foreground.items(), colours, strict=True), start=1):
        written.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=header.FrameOfReferenceUID,
                ROIName=long_string(name),
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        contours = _contours(np.isin(labels, values), scan)
        roi = _item(ROIDisplayColor=[round(255 * float(c)) for c in colour], ReferencedROINumber=number)
        if contours:
            roi.ContourSequence = contours
        written.ROIContourSequence.append(roi)
        written.RTROIObservationsSequence.append(
            _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
        )
    written.file_meta = FileMetaDataset()
    # With explicit types, a contour's text could have no more than 64 KiB.
    written.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    written.save_as(path, enforce_file_format=True)


def _contours(mask: np.ndarray, scan: Scan) -> list[Dataset]:
    stack = scan.stack
    assert stack is not None  # a still has no place for contours
    row, column = stack.axes[:2]
    between_rows, between_columns = stack.pixel_spacing
    found: list[Dataset] = []
    for z, frame in enumerate(scan.frames):
        if not mask[z].any():
            continue
        for xy in outlines(mask[z]):
            points = frame.position + xy * [between_columns, between_rows] @ np.stack([row, column])
            found.append(
                _item(
                    ContourImageSequence=[_reference(frame, scan)],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourNumber=len(found) + 1,
                    ContourData=[f"{value:.{DECIMALS}f}" for value in points.ravel()],
                )
            )
    return found


def _frame_of_reference(scan: Scan) -> Dataset:
    header = scan.series.headers[0]
    series = _item(
        SeriesInstanceUID=header.SeriesInstanceUID,
        ContourImageSequence=[_reference(frame, scan) for frame in scan.frames],
    )
    study = _item(
        # The Detached Study Management class is retired; the standard still names its UID for this reference.
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=header.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _reference(frame: Frame, scan: Scan) -> Dataset:
    header = scan.series.headers[frame.instance]
    item = _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if len(scan.frames) > len(scan.series.headers):
        item.ReferencedFrameNumber = frame.index + 1
    return item


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
