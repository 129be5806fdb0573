"""Labels as a DICOM segmentation (SEG) that refers to the images that were segmented."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import VR, DSfloat

from nnunetv2_dsvm.dicom.reading.scan import Scan
from nnunetv2_dsvm.dicom.reading.stack import Stack
from nnunetv2_dsvm.dicom.writing.origin import (
    REQUIRED,
    Algorithm,
    character_set,
    copy_patient_and_study,
    long_string,
)
from nnunetv2_dsvm.dicom.writing.terminology import Term

SERIES_NUMBER = 9001


def write_segmentation(
    path: Path,
    labels: np.ndarray,
    scan: Scan,
    *,
    foreground: Mapping[str, tuple[int, ...]],
    terms: Mapping[str, Term],
    colours: Sequence[np.ndarray],
    algorithm: Algorithm,
) -> None:
    """
    Args:
        path: which nobody else reads yet.
        labels: `(z, y, x)`, on the slices of the series.
        foreground: label values of each segment, by the label's name; regions may overlap.
        terms: of the labels.
        colours: RGB in 0 … 1, one per label.
    """
    first = scan.series.headers[0]
    segments = [
        _segment(number, name, terms[name], colour, algorithm)
        for number, (name, colour) in enumerate(zip(foreground, colours, strict=True), start=1)
    ]
    written = hd.seg.Segmentation(
        source_images=_sources(scan),
        pixel_array=_masks(_in_order_of_sources(labels, scan), foreground),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=algorithm.package,
        manufacturer_model_name=long_string(algorithm.trainer),
        software_versions=algorithm.version,
        device_serial_number=algorithm.serial_number,
        content_label="SEGMENTATION",
        content_description=long_string(f"Automatic segmentation by {algorithm.trainer}"),
        series_description=long_string(f"Segmentation by {algorithm.trainer}"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    meanings = [code.meaning for term in terms.values() for code in (term.category, term.type, term.modifier) if code]
    if (characters := character_set(first, [*foreground, *meanings, *algorithm.texts])) is not None:
        written.SpecificCharacterSet = characters
    copy_patient_and_study(first, written)
    if scan.stack is None:  # where nothing else says which way up it is
        written.PatientOrientation = first.get("PatientOrientation", "")
    written.walk(_shorten)
    written.save_as(path, enforce_file_format=True)


def _sources(scan: Scan) -> list[Dataset]:
    """Headers in the order of the masks, with what highdicom asks for and sources may lack, break or say elsewhere.

    What the source says of patient and study is copied afterwards, as it is.
    """
    instances = list(dict.fromkeys(frame.instance for frame in scan.frames))
    sources = []
    for header in (scan.series.headers[instance] for instance in instances):
        plain = Dataset()
        plain.update(header)  # whose elements it shares: they are replaced, never changed
        if scan.stack is not None:
            _place(plain, scan.stack)
        sources.append(plain)
    empty = Dataset()
    for keyword in REQUIRED:
        setattr(empty, keyword, "")
    sources[0].update(empty)
    sources[0].pop("SpecificCharacterSet", None)  # highdicom takes none of an empty first value, which stands for ASCII
    return sources


def _place(source: Dataset, stack: Stack) -> None:
    """Gives a source the geometry of the stack, where highdicom looks for it and without what is rounding."""
    first = stack.frames[0]
    groups = [
        item for whose in ("PerFrame", "Shared") for item in source.get(f"{whose}FunctionalGroupsSequence", [])[:1]
    ]
    stated = [(group.get("PixelMeasuresSequence") or [group])[0].get("SliceThickness") for group in (source, *groups)]
    measures, orientation, described = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = list(stack.pixel_spacing)
    measures.SliceThickness = next((thickness for thickness in stated if thickness), stack.spacing)
    measures.SpacingBetweenSlices = stack.spacing
    orientation.ImageOrientationPatient = np.array(first.orientation).tolist()
    if not groups:
        source.update(measures)
        source.update(orientation)
        return
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    described.SharedFunctionalGroupsSequence, described.PerFrameFunctionalGroupsSequence = [shared], []
    for frame in sorted(stack.frames, key=lambda frame: frame.index):
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = np.array(frame.position).tolist()
        group.PlanePositionSequence = [position]
        described.PerFrameFunctionalGroupsSequence.append(group)
    source.update(described)


def _shorten(_: Dataset, element: DataElement) -> None:
    """Decimals of a multi-frame source are taken over as they stand there, some longer than DICOM's 16 characters."""
    if element.VR == VR.DS and element.value is not None:
        numbers = element.value if element.VM > 1 else [element.value]
        element.value = [DSfloat(number, auto_format=len(str(number)) > 16) for number in numbers]


def _in_order_of_sources(labels: np.ndarray, scan: Scan) -> np.ndarray:
    """Masks in the order of a multi-frame instance's frames, or, of single ones, as they are."""
    if len(scan.frames) == len(scan.series.headers):
        return labels
    order = np.argsort([frame.index for frame in scan.frames])
    return labels[order]


def _masks(labels: np.ndarray, foreground: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Segment numbers `(z, y, x)`, or where segments may overlap a mask each, `(z, y, x, segments)`."""
    if sum(map(len, foreground.values())) > len(set().union(*foreground.values())):
        return np.stack([np.isin(labels, values) for values in foreground.values()], axis=-1).astype(np.uint8)
    numbers = np.zeros(max(int(labels.max()), *(max(values) for values in foreground.values())) + 1, np.uint16)
    for number, values in enumerate(foreground.values(), start=1):
        numbers[list(values)] = number
    return numbers[labels]


def _segment(number: int, name: str, term: Term, colour: np.ndarray, algorithm: Algorithm) -> hd.seg.SegmentDescription:
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=long_string(name),
        segmented_property_category=term.category,
        segmented_property_type=term.type,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=long_string(algorithm.trainer),
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version,
            source=algorithm.package,
            parameters=dict(algorithm.parameters),
        ),
        display_color=hd.color.CIELabColor.from_rgb(*(255 * float(part) for part in colour)),
    )
    if term.modifier is not None:
        modifier = hd.sr.CodedConcept(*term.modifier[:3])
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [deepcopy(modifier)]
    return segment
