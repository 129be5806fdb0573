"""What each slice says of itself, the same for single-frame instances and for the frames of a multi-frame one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from nnunetv2_dsvm.errors import UserError


@dataclass(frozen=True)
class Frame:
    """A slice.

    Attributes:
        name: for messages: `instance 7`, `frame 7`.
        instance: index of its instance in the series.
        index: index in the instance's pixels.
        size: rows, columns.
        position: of the first voxel's centre, `(3,)` in mm; None where the image has no place in space.
        orientation: of rows and columns, `(6,)`; None likewise.
        pixel_spacing: between rows and between columns in mm; None where it is not known.
        thickness: between slices in mm as a single one states it; None where it does not.
        acquisition: its number; empty where there is none.
        localizer: whether it only shows where the others lie.
        rescale: slope and intercept from stored values to those of the modality.
    """

    name: str
    instance: int
    index: int
    size: tuple[int, int]
    position: np.ndarray | None
    orientation: np.ndarray | None
    pixel_spacing: tuple[float, float] | None
    thickness: float | None
    acquisition: str
    localizer: bool
    rescale: tuple[float, float]


def frames_of(header: Dataset, instance: int) -> list[Frame]:
    """The frames of an instance, in the order of its pixels.

    Args:
        instance: its index in the series.

    Raises:
        UserError: a multi-frame instance does not describe its frames, or a number is none.
    """
    number = header.get("InstanceNumber")
    own = f"instance {number}" if number not in (None, "") else f"file {instance + 1} of the series"
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    try:
        count = int(header.get("NumberOfFrames") or 1)
        if not per_frame:
            if count > 1:
                raise UserError(
                    f"{own} holds {count} frames without saying where each lies: export it as enhanced CT or MR, or as "
                    "single slices"
                )
            return [_frame_from(own, instance, 0, header, [header])]
        if len(per_frame) != count:
            raise UserError(f"{own} holds {count} frames and describes {len(per_frame)}: export it again")
        shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
        return [
            _frame_from(f"frame {index + 1}", instance, index, header, [groups, shared[0]])
            for index, groups in enumerate(per_frame)
        ]
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{own} is described by what is no number ({type(error).__name__}): export it again") from None


def _frame_from(name: str, instance: int, index: int, header: Dataset, groups: Sequence[Dataset]) -> Frame:
    """
    Args:
        groups: the functional groups of the frame and those of all; of a single-frame instance, itself.
    """

    def value(group: str, keyword: str):
        for item in groups:
            of = item if item is header else (item.get(group) or [Dataset()])[0]
            if of.get(keyword) not in (None, ""):
                return of.get(keyword)
        return None

    def numbers(group: str, keyword: str, count: int) -> np.ndarray | None:
        found = value(group, keyword)
        if found is None:
            return None
        array = np.array(found, dtype=np.float64).reshape(-1)
        if array.size != count or not np.isfinite(array).all():
            raise ValueError(keyword)
        return array

    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if spacing is not None and not (spacing > 0).all():
        raise ValueError("PixelSpacing")
    thickness = value("PixelMeasuresSequence", "SpacingBetweenSlices") or value(
        "PixelMeasuresSequence", "SliceThickness"
    )
    kinds = [
        part
        for item in [*groups, header]
        for kind in ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence")
        for part in (item.get(kind) or [Dataset()])[0].get("FrameType", [])
    ] + list(header.get("ImageType") or [])
    slope = value("PixelValueTransformationSequence", "RescaleSlope")
    intercept = value("PixelValueTransformationSequence", "RescaleIntercept")
    acquisition = value("FrameContentSequence", "FrameAcquisitionNumber") or header.get("AcquisitionNumber")
    return Frame(
        name=name,
        instance=instance,
        index=index,
        size=(int(header.Rows), int(header.Columns)),
        position=numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        pixel_spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        thickness=abs(float(thickness)) or None if thickness is not None else None,
        acquisition="" if acquisition in (None, "") else str(acquisition),
        localizer=any(str(kind).upper() in ("LOCALIZER", "SCOUT") for kind in kinds),
        rescale=(1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)),
    )
