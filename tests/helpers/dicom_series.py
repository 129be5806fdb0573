"""Small DICOM series, written by pydicom: CT and MR slices, an enhanced multi-frame CT, stills."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SPACING_MM = (0.8, 1.1, 2.5)  # x, y, z
AXIAL = np.eye(3)  # in rows: along a row, along a column, their normal
CORONAL = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
ORIGIN_MM = np.array([-31.5, 12.25, -140.0])
SECRETS = ("Zaphod", "PID-42", "19520311", "ACC-77", "Betelgeuse")  # in what each series says of its patient
PATIENT = {
    "PatientName": f"{SECRETS[0]}^Beeblebrox",
    "PatientID": SECRETS[1],
    "PatientBirthDate": SECRETS[2],
    "PatientSex": "O",
    "AccessionNumber": SECRETS[3],
    "ReferringPhysicianName": f"{SECRETS[4]}^Dr",
    "StudyDate": "20240229",
    "StudyTime": "101112",
    "StudyID": "S1",
    "StudyDescription": f"Thorax {SECRETS[0]}",
}


def oblique() -> np.ndarray:
    """Turned about all three axes."""
    a, b, c = np.radians([14, -23, 31])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return z @ y @ x


def phantom(shape: tuple[int, int, int] = (7, 26, 22)) -> np.ndarray:
    """Labels 0, 1, 2 `(z, y, x)`: a ring with a hole, another part, pixels that meet at corners, and what it holds."""
    labels = np.zeros(shape, np.uint8)
    labels[1:-1, 3:15, 2:13] = 1
    labels[1:-1, 6:11, 5:9] = 0
    labels[2:-2, 7:9, 6:8] = 2
    labels[2:, 18:23, 10:20] = 2
    labels[3, 19, 12] = 0
    labels[3, 16, 2], labels[3, 17, 3], labels[4, 0, 0], labels[-2, -1, -1] = 1, 1, 1, 2
    return labels


def values_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """About 100 HU per label."""
    noise = np.random.default_rng(seed).integers(-9, 10, labels.shape)
    return (100 * labels.astype(np.int16) + noise).astype(np.int16)


def slices(
    values: np.ndarray,
    *,
    modality: str = "CT",
    axes: np.ndarray = AXIAL,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    positions_mm: Sequence[float] | None = None,
    study: str | None = None,
    series_number: int | None = 3,
    **elements: object,
) -> list[Dataset]:
    """Single-frame instances, the first slice first.

    Args:
        values: `(z, y, x)`, HU; stored with an intercept of −1024.
        positions_mm: of the slices along the normal; by default as spacing_mm has it.
        elements: further ones, of every instance.
    """
    series_uid, frame_uid, study = generate_uid(), generate_uid(), study or generate_uid()
    found = []
    for z, of_slice in enumerate(values):
        instance = _instance(
            uid.CTImageStorage if modality == "CT" else uid.MRImageStorage,
            StudyInstanceUID=study,
            SeriesInstanceUID=series_uid,
            SeriesNumber=series_number,
            SeriesDescription=f"of {SECRETS[0]}",
            Modality=modality,
            InstanceNumber=z + 1,
            AcquisitionNumber=1,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            FrameOfReferenceUID=frame_uid,
            PositionReferenceIndicator="",
            RescaleSlope=1,
            RescaleIntercept=-1024,
            SliceThickness=spacing_mm[2],
            PixelSpacing=[spacing_mm[1], spacing_mm[0]],
            ImageOrientationPatient=axes[:2].ravel().tolist(),
        )
        along = z * spacing_mm[2] if positions_mm is None else positions_mm[z]
        place(instance, ORIGIN_MM + along * axes[2])
        set_pixels(instance, (of_slice + 1024).astype(np.uint16))
        for keyword, value in elements.items():
            setattr(instance, keyword, value)
        found.append(instance)
    return found


def place(instance: Dataset, position: np.ndarray) -> None:
    instance.ImagePositionPatient = [f"{coordinate:.6f}" for coordinate in position]


def enhanced(values: np.ndarray, order: Sequence[int], *, axes: np.ndarray = AXIAL, modality: str = "CT") -> Dataset:
    """One multi-frame instance; `order` are the slices in the order of its frames."""
    single = slices(values, axes=axes, modality=modality)
    first = single[0]
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = [_part(first, "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_part(first, "PixelSpacing", "SliceThickness")]
    shared.PixelValueTransformationSequence = [_part(first, "RescaleSlope", "RescaleIntercept")]
    for z in order:
        frame = Dataset()
        frame.PlanePositionSequence = [_part(single[z], "ImagePositionPatient")]
        frames.append(frame)
    whole = deepcopy(first)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
        "RescaleIntercept",
    ):  # fmt: skip
        delattr(whole, keyword)
    whole.SOPClassUID = uid.EnhancedCTImageStorage if modality == "CT" else uid.EnhancedMRImageStorage
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], frames
    whole.NumberOfFrames = len(order)
    whole.PixelData = (values[list(order)] + 1024).astype(np.uint16).tobytes()
    return whole


def still(rgb: np.ndarray, **elements: object) -> Dataset:
    """A photograph `(y, x, 3)`."""
    instance = _instance(
        uid.VLPhotographicImageStorage,
        StudyInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=1,
        Modality="XC",
        InstanceNumber=1,
        ImageType=["ORIGINAL", "PRIMARY"],
    )
    set_pixels(instance, rgb)
    for keyword, value in elements.items():
        setattr(instance, keyword, value)
    return instance


def set_pixels(instance: Dataset, pixels: np.ndarray) -> None:
    instance.Rows, instance.Columns = pixels.shape[:2]
    instance.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    instance.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        instance.PlanarConfiguration = 0
    instance.BitsAllocated = instance.BitsStored = 8 * pixels.dtype.itemsize
    instance.HighBit = instance.BitsStored - 1
    instance.PixelRepresentation = 0
    instance.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)


def write(instances: Sequence[Dataset], folder: Path, name: str = "{:03d}.dcm") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, instance in enumerate(instances):
        dcmwrite(folder / name.format(number), instance, enforce_file_format=True)
    return folder


def _instance(sop_class: str, **elements: object) -> Dataset:
    instance = Dataset()
    for keyword, value in {**PATIENT, **elements}.items():
        setattr(instance, keyword, value)
    instance.SOPClassUID, instance.SOPInstanceUID = sop_class, generate_uid()
    instance.Manufacturer = "Sirius Cybernetics"
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return instance


def _part(of: Dataset, *keywords: str) -> Dataset:
    part = Dataset()
    for keyword in keywords:
        part[keyword] = of[keyword]
    return part
