"""The series of a study, what each one is, and which of them is taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydicom import Dataset, uid

from nnunetv2_dsvm.dicom.reading.frames import Frame, frames_of
from nnunetv2_dsvm.dicom.reading.sources import StoredFile
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.text import aligned, by

Kind = Literal["CT", "MR", "still"]
_KINDS: dict[str, Kind] = {
    uid.CTImageStorage: "CT",
    uid.EnhancedCTImageStorage: "CT",
    uid.LegacyConvertedEnhancedCTImageStorage: "CT",
    uid.MRImageStorage: "MR",
    uid.EnhancedMRImageStorage: "MR",
    uid.LegacyConvertedEnhancedMRImageStorage: "MR",
    uid.VLEndoscopicImageStorage: "still",
    uid.VLMicroscopicImageStorage: "still",
    uid.VLPhotographicImageStorage: "still",
    uid.DermoscopicPhotographyImageStorage: "still",
}


@dataclass(frozen=True)
class Series:
    """Instances of one Series Instance UID and one kind, in the order of their numbers.

    Attributes:
        files: one per instance.
        headers: all but the pixels.
    """

    uid: str
    files: Sequence[StoredFile]
    headers: Sequence[Dataset]

    @property
    def number(self) -> str:
        """The Series Number, as text; empty where there is none."""
        number = self.headers[0].get("SeriesNumber")
        return "" if number is None else str(number)

    @property
    def name(self) -> str:
        """For messages."""
        return f"series {self.number}" if self.number else "the series without a number"

    @property
    def modality(self) -> str:
        return str(self.headers[0].get("Modality") or "unknown")

    @property
    def kind(self) -> Kind | None:
        """None for what is no image that can be segmented here."""
        return _KINDS.get(str(self.headers[0].get("SOPClassUID")))

    @cached_property
    def frames(self) -> list[Frame]:
        """Of all its instances.

        Raises:
            UserError: as `frames_of`.
        """
        return [frame for i, header in enumerate(self.headers) for frame in frames_of(header, i)]

    @property
    def is_localizer(self) -> bool:
        return self.kind is not None and all(frame.localizer for frame in self.frames)


def group_by_series(instances: Sequence[tuple[StoredFile, Dataset]]) -> list[Series]:
    """Series in the order of their numbers; other objects under the UID of images are a series of their own."""
    groups: dict[tuple[str, Kind | None], list[tuple[StoredFile, Dataset]]] = {}
    for file, header in instances:
        key = str(header.get("SeriesInstanceUID", "")), _KINDS.get(str(header.get("SOPClassUID")))
        groups.setdefault(key, []).append((file, header))
    found = []
    for (series_uid, _), members in groups.items():
        members.sort(key=lambda member: _number(member[1].get("InstanceNumber")))
        found.append(Series(series_uid, [file for file, _ in members], [header for _, header in members]))
    return sorted(found, key=lambda series: (_number(series.number), series.uid))


def choose(
    found: Sequence[Series], asked: str | None, fault_of: Callable[[Series], str | None], *, with_identity: bool = False
) -> tuple[Series, str]:
    """The series that is taken, and the list of all of them.

    Args:
        asked: a Series Number or a Series Instance UID; None for the only one that can be segmented.
        fault_of: why a series cannot be; None where it can.
        with_identity: whether the list shows descriptions and UIDs, in which a patient's identity may lie.

    Raises:
        UserError: none can be segmented, several can and none is asked for, or the one that is asked for cannot.
    """
    faults = [fault_of(series) for series in found]
    if asked is None:
        chosen = [series for series, fault in zip(found, faults, strict=True) if fault is None]
    else:
        chosen = [series for series in found if asked in (series.uid, series.number)]
        if len(chosen) > 1:  # an image and what else goes under its UID
            chosen = [s for s in chosen if s.kind is not None] or chosen
    table = _table(found, faults, chosen[0] if len(chosen) == 1 else None, with_identity)
    if not chosen:
        what = "no series can be segmented" if asked is None else "there is no such series (--series)"
        raise UserError(f"{what}; there {'is' if len(found) == 1 else 'are'}:\n{table}")
    if len(chosen) > 1:
        what = "several series can be segmented" if asked is None else f"several series have the number {asked}"
        how = "number or UID" if asked is None else "UID, which --keep-identity shows"
        raise UserError(f"{what}: name one with --series, by its {how}:\n{table}")
    if asked is not None and (fault := faults[found.index(chosen[0])]) is not None:
        raise UserError(f"{chosen[0].name} cannot be segmented: {fault}")
    return chosen[0], table


def _table(found: Sequence[Series], faults: Sequence[str | None], taken: Series | None, with_identity: bool) -> str:
    rows = []
    for series, fault in zip(found, faults, strict=True):
        first = series.headers[0]
        images = sum(max(1, _number(header.get("NumberOfFrames"), 1)) for header in series.headers)
        sides = first.get("Columns"), first.get("Rows")
        size = by(sides) if all(isinstance(side, int) for side in sides) else ""
        why = "taken" if series is taken else fault or ""
        row = ["  " + (series.number or "-"), series.modality, f"{images:.0f}", size, why]
        rows.append([*row, str(first.get("SeriesDescription", "")), series.uid] if with_identity else row)
    return aligned(rows, left=len(rows[0]))


def _number(text: object, otherwise: float = float("inf")) -> float:
    try:
        return float(str(text))
    except ValueError:
        return otherwise
