"""Which series are volumes: what is missing, double, tilted or of two kinds is refused, and where it is said."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from nnunetv2_dsvm.dicom.reading.frames import Frame
from nnunetv2_dsvm.dicom.reading.series import Series
from nnunetv2_dsvm.dicom.reading.stack import Stack, stacked
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.text import by

# Positions are rounded decimals; more than this between slices of one stack is none of it.
RELATIVE_SPACING, SPACING_MM = 0.01, 0.01
DIRECTION_COSINE = 1e-3
SHIFT_PIXELS = 0.1  # of a slice within its plane
SAME_PLACE_MM = 0.001
# What a volume has one of; positions of two frames of reference cannot be compared.
_OF_ONE = {"PatientID": "patients", "StudyInstanceUID": "studies", "FrameOfReferenceUID": "frames of reference"}


def check_still(series: Series) -> Frame:
    """The only image of a series of stills.

    Raises:
        UserError: there are several.
    """
    if len(series.frames) > 1:
        raise UserError(
            f"{series.name} holds {len(series.frames)} stills, each an image of its own: name one file with -i"
        )
    return series.frames[0]


def check_stack(series: Series, *, resample: bool) -> Stack:
    """The series as a regular stack of parallel slices.

    Args:
        resample: whether a tilted gantry is no reason to refuse it.

    Raises:
        UserError: it is none; the message says which slices are to blame.
    """
    name, frames = series.name, series.frames
    if len(series.headers) > 1 and len(frames) > len(series.headers):
        raise UserError(
            f"{name} holds {len(series.headers)} multi-frame instances, expected one: name one file with -i"
        )
    _check_instances(series)
    if localizers := [frame for frame in frames if frame.localizer]:
        raise UserError(
            f"{name} holds {_names(localizers)} as {'localizers' if len(localizers) > 1 else 'a localizer'}, beside "
            f"{len(frames) - len(localizers)} slices: export it without"
        )
    _check_alike(name, frames)
    try:
        stack = stacked(frames)
    except ValueError as error:
        raise UserError(f"{name} has no usable orientation: {error}") from error
    _check_places(name, stack)
    _check_shifts(name, stack, resample)
    if not stack.spacing:
        raise UserError(f"{name} is a single slice that does not state its thickness, without which it has no volume")
    return stack


def _check_instances(series: Series) -> None:
    uids = [str(header.get("SOPInstanceUID", "")) for header in series.headers]
    double = {uid for uid, count in Counter(uids).items() if uid and count > 1}
    if names := list(dict.fromkeys(f.name for f in series.frames if uids[f.instance] in double)):
        raise UserError(
            f"{series.name} holds duplicates: {', '.join(names[:3])}{' and more' * (len(names) > 3)} "
            f"{'is' if len(names) == 1 else 'are'} there more than once: remove the copies"
        )
    for keyword, what in _OF_ONE.items():
        values = [str(header.get(keyword, "")) for header in series.headers]
        if other := [frame for frame in series.frames if values[frame.instance] != values[0]]:
            raise UserError(
                f"{series.name} holds slices of two {what}: {_names(other)} "
                f"{'differs' if len(other) == 1 else 'differ'} from {series.frames[0].name} ({keyword}): export each "
                "as a series"
            )
    if by_table := [frame for frame in series.frames if "ModalityLUTSequence" in series.headers[frame.instance]]:
        raise UserError(
            f"{series.name} stores values by a table instead of a slope and an intercept (ModalityLUTSequence), in "
            f"{_names(by_table)}: export it rescaled"
        )


def _check_alike(name: str, frames: Sequence[Frame]) -> None:
    """That all slices have a place, one size, one spacing of pixels and one orientation."""
    for what in ("position", "orientation", "pixel_spacing"):
        if lacking := [frame for frame in frames if getattr(frame, what) is None]:
            raise UserError(f"{name} has no place in space: {_names(lacking)} without {what.replace('_', ' ')}")
    first = frames[0]
    if other := [frame for frame in frames if frame.size != first.size]:
        raise UserError(
            f"{name} holds slices of two sizes: {first.name} has {by(first.size[::-1])} pixels, {_names(other)} "
            f"{by(other[0].size[::-1])}"
        )
    spacings = np.array([frame.pixel_spacing for frame in frames])
    if other := _unlike(frames, spacings, RELATIVE_SPACING * spacings[0].min()):
        raise UserError(
            f"{name} has an inconsistent spacing of pixels: {by(spacings[0])} mm in {first.name}, another in "
            f"{_names(other)}"
        )
    if other := _unlike(frames, np.array([frame.orientation for frame in frames]), DIRECTION_COSINE):
        raise UserError(
            f"{name} holds slices that are not parallel, as localizers and several stacks in one series are: "
            f"{_names(other)} lie across {first.name}"
        )


def _check_places(name: str, stack: Stack) -> None:
    """That the slices are equally far from each other, none at the place of another, none missing."""
    frames, gaps = stack.frames, stack.gaps
    if not len(gaps):
        return
    acquisitions = list(dict.fromkeys(frame.acquisition for frame in frames))
    if len(acquisitions) > 1 and _interleaved(stack, acquisitions):
        raise UserError(
            f"{name} holds {len(acquisitions)} acquisitions (numbers {', '.join(sorted(acquisitions))}) of one region: "
            "export each as a series"
        )
    same = np.flatnonzero(gaps < SAME_PLACE_MM)
    if len(same):
        places = len(frames) - len(same)
        if len(frames) % places == 0 and len(frames) // places > 1:
            counts = np.diff(np.flatnonzero(np.r_[True, gaps >= SAME_PLACE_MM, True]))
            if (counts == len(frames) // places).all():
                raise UserError(
                    f"{name} holds {len(frames) // places} acquisitions: each of its {places} places has so many "
                    "slices, as phases, echoes or repetitions have: export each as a series"
                )
        a, b = frames[same[0]], frames[same[0] + 1]
        raise UserError(f"{name} holds duplicates: {a.name} and {b.name} lie at the same place")
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the lower median, which is one of them
    tolerance = max(RELATIVE_SPACING * usual, SPACING_MM)
    odd = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    if not len(odd):
        return
    i = int(odd[0])
    between = f"between {frames[i].name} and {frames[i + 1].name} are {gaps[i]:.4g} mm, elsewhere {usual:.4g} mm"
    steps = np.round(gaps[odd] / usual)
    if (steps >= 2).all() and (np.abs(gaps[odd] - steps * usual) <= tolerance * steps).all():
        missing = int((steps - 1).sum())
        raise UserError(f"{name} misses {missing} slice{'s' * (missing > 1)}: {between}: export it again, whole")
    raise UserError(
        f"{name} has an inconsistent spacing of slices: {between} (tolerance {tolerance:.2g} mm), and "
        f"{len(odd)} of {len(gaps)} gaps differ so"
    )


def _interleaved(stack: Stack, acquisitions: Sequence[str]) -> bool:
    """Whether two acquisitions of several slices each share a region; one may also go on where another ends."""
    ranges = []
    for number in acquisitions:
        places = [d for d, frame in zip(stack.distances, stack.frames, strict=True) if frame.acquisition == number]
        if len(places) > 1:
            ranges.append((min(places), max(places)))
    ranges.sort()
    return any(low <= high for (_, high), (low, _) in pairwise(ranges))


def _check_shifts(name: str, stack: Stack, resample: bool) -> None:
    """That the slices lie straight behind each other, or all tilted alike where that will be resampled."""
    if not len(stack.gaps):
        return
    straight = stack.distances[:, None] / stack.distances[-1] * stack.shifts[-1]
    beside = np.abs((stack.shifts - straight) / stack.pixel_spacing[::-1]).max(axis=1)
    if beside.max() > SHIFT_PIXELS:
        frame = stack.frames[int(beside.argmax())]
        raise UserError(
            f"{name} holds slices that do not lie on one line: {frame.name} is {beside.max():.2g} pixels beside it"
        )
    if np.abs(stack.shift_in_pixels).max() > SHIFT_PIXELS and not resample:
        raise UserError(
            f"{name} was scanned with a tilted gantry, by {stack.tilt_degrees:.3g} degrees from {stack.frames[0].name} "
            f"to {stack.frames[-1].name}: its slices are no upright volume; --resample straightens it for the network"
        )


def _unlike(frames: Sequence[Frame], values: np.ndarray, tolerance: float) -> list[Frame]:
    unlike = np.abs(values - values[0]).max(axis=1) > tolerance
    return [frame for frame, differs in zip(frames, unlike, strict=True) if differs]


def _names(frames: Sequence[Frame]) -> str:
    """The first three, and how many more."""
    names = ", ".join(frame.name for frame in frames[:3])
    return f"{names} and {len(frames) - 3} more" if len(frames) > 3 else names
