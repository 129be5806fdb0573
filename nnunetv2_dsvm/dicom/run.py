"""From a study to the files of its segmentation: each step in its turn."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from nnunetv2_dsvm.dicom.fitting import fault_of
from nnunetv2_dsvm.dicom.model import Model, load_predictor, open_model
from nnunetv2_dsvm.dicom.predict import predict_labels
from nnunetv2_dsvm.dicom.reading.scan import Scan, read_scan
from nnunetv2_dsvm.dicom.reading.series import Series, choose, group_by_series
from nnunetv2_dsvm.dicom.reading.sources import headers, leniently
from nnunetv2_dsvm.dicom.results import (
    ALL_FILES,
    LABELS,
    OVERLAY,
    SEGMENTATION,
    STRUCTURES,
    VOLUMES_CSV,
    VOLUMES_JSON,
    DicomPrediction,
    check_free,
)
from nnunetv2_dsvm.dicom.writing.origin import Algorithm, algorithm_of
from nnunetv2_dsvm.dicom.writing.overlay import write_overlay
from nnunetv2_dsvm.dicom.writing.rtstruct import write_rtstruct
from nnunetv2_dsvm.dicom.writing.segmentation import write_segmentation
from nnunetv2_dsvm.dicom.writing.terminology import Term, terms_of
from nnunetv2_dsvm.dicom.writing.volumes import Volume, measure, write_volumes
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import beside, put_in_place
from nnunetv2_dsvm.files.vanishing_folder import vanishing
from nnunetv2_dsvm.reporting.label_colours import LABEL_COLOURS, rgb_of
from nnunetv2_dsvm.training.guards.surroundings import check_device

_LOG = logging.getLogger(__name__)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyInstanceUID", "SeriesDescription")


@dataclass(frozen=True)
class Task:
    """What `predict_dicom` was asked for; see there."""

    scan: Path
    output: Path
    model: Path
    folds: Sequence[str | int] | None
    checkpoint: str
    outputs: tuple[str, ...]
    series: str | None
    terminology: Path | None
    resample: bool
    keep_identity: bool
    overwrite: bool
    device: str
    show_progress: bool


def run(task: Task) -> DicomPrediction:
    """
    Raises:
        UserError: as `predict_dicom`.
    """
    device = torch.device(task.device)
    check_device(device)
    with leniently(), _workspace(task.output) as folder:
        unpacked, images, results = (folder / name for name in ("model", "images", "results"))
        for part in (unpacked, images, results):
            part.mkdir()
        model = open_model(task.model, task.folds, task.checkpoint, unpacked)
        terms = terms_of(model.labels.foreground, task.terminology)
        series = _series(task, model)
        _check_outputs(series, task.outputs)
        _LOG.info("reading %s", series.name)
        scan = read_scan(series, resample=task.resample)
        predictor = load_predictor(model, device, show_progress=task.show_progress)
        _LOG.info("predicting with fold %s on %s", ", ".join(model.folds), device)
        labels = predict_labels(scan, model, predictor, images)
        algorithm = algorithm_of(model)
        volumes = _write(results, task, labels, scan, model, terms, algorithm)
        check_free(task.output, overwrite=task.overwrite)  # another run may have ended meanwhile
        files = _put_in_place(results, task.output)
    return DicomPrediction(files, tuple(asdict(volume) for volume in volumes), tuple(_notes(scan, labels, task)))


@contextmanager
def _workspace(output: Path) -> Iterator[Path]:
    """A hidden folder in the output folder, which is made first, and removed again if nothing came of it."""
    made = [path for path in (output, *output.parents) if not path.exists()]
    output.mkdir(parents=True, exist_ok=True)
    try:
        with beside(output / LABELS) as folder, vanishing(folder):
            yield folder
    except BaseException:
        for path in made:
            with suppress(OSError):  # somebody else has put something there
                path.rmdir()
        raise


def _series(task: Task, model: Model) -> Series:
    found = group_by_series(headers(task.scan))
    series, table = choose(found, task.series, lambda series: fault_of(series, model), with_identity=task.keep_identity)
    _LOG.info("series of the study:\n%s", table)
    return series


def _check_outputs(series: Series, outputs: Sequence[str]) -> None:
    """Before the long work."""
    if series.kind == "still" and "rtstruct" in outputs:
        raise UserError(f"{series.name} is a still, which has no place in space for RTSTRUCT: leave it out of --output")
    needed = [*_UIDS, *(["FrameOfReferenceUID"] if series.kind != "still" else [])]
    lacking = [name for name in needed if any(not header.get(name) for header in series.headers)]
    if lacking and {"seg", "rtstruct"} & set(outputs):
        raise UserError(
            f"{series.name} lacks {', '.join(lacking)}, to which SEG and RTSTRUCT refer: export it again, or take "
            "--output nifti"
        )
    multi = "PerFrameFunctionalGroupsSequence" in series.headers[0] and len(series.frames) == len(series.headers) > 1
    if multi and "seg" in outputs:
        raise UserError(
            f"{series.name} holds {len(series.headers)} multi-frame instances of one frame, and SEG refers to one: "
            "leave seg out of --output"
        )


def _write(
    folder: Path,
    task: Task,
    labels: np.ndarray,
    scan: Scan,
    model: Model,
    terms: Mapping[str, Term],
    algorithm: Algorithm,
) -> list[Volume]:
    _LOG.info("writing %s", ", ".join(task.outputs))
    foreground, on_slices = model.labels.foreground, scan.as_scanned(labels)
    colours = [rgb_of(LABEL_COLOURS[i % len(LABEL_COLOURS)]) for i in range(len(foreground))]
    if "nifti" in task.outputs:
        sitk.WriteImage(scan.image(labels), str(folder / LABELS), True)
    if "seg" in task.outputs:
        write_segmentation(
            folder / SEGMENTATION, on_slices, scan,
            foreground=foreground, terms=terms, colours=colours, algorithm=algorithm,
        )  # fmt: skip
    if "rtstruct" in task.outputs:
        write_rtstruct(
            folder / STRUCTURES, on_slices, scan, foreground=foreground, colours=colours, algorithm=algorithm
        )
    spacing = None if scan.stack is None else (scan.stack.spacing, *scan.stack.pixel_spacing)
    volumes = measure(on_slices, foreground, spacing)
    write_volumes(folder / VOLUMES_JSON, folder / VOLUMES_CSV, volumes, _about(task, scan, spacing, algorithm))
    if not _names_burned_in(scan, task):
        write_overlay(folder / OVERLAY, labels, scan, foreground=foreground, channel_names=model.channel_names)
    return volumes


def _about(task: Task, scan: Scan, spacing: Sequence[float] | None, algorithm: Algorithm) -> dict[str, Any]:
    header = scan.series.headers[0]
    about: dict[str, Any] = {
        "modality": scan.series.modality,
        "slices": len(scan.frames),
        "spacing_mm": None if spacing is None else [round(float(length), 6) for length in spacing],
        "algorithm": algorithm.as_json(),
    }
    if task.keep_identity:
        identity = {name: str(header.get(name, "")) for name in _IDENTITY}
        about["identity"] = {**identity, "SeriesInstanceUID": scan.series.uid, "SeriesNumber": scan.series.number}
    return about


def _put_in_place(results: Path, output: Path) -> tuple[Path, ...]:
    """The results in the output folder; earlier ones that have no successor go, as they are of another prediction."""
    written = [name for name in ALL_FILES if (results / name).is_file()]
    for name in ALL_FILES:
        if name in written:
            put_in_place(results / name, output / name)
        else:
            (output / name).unlink(missing_ok=True)
    return tuple(output / name for name in written)


def _notes(scan: Scan, labels: np.ndarray, task: Task) -> Iterator[str]:
    if scan.straightening is not None and scan.stack is not None:
        yield (
            f"The gantry was tilted by {scan.stack.tilt_degrees:.3g} degrees: {LABELS} lies on the straightened grid, "
            "all else on the slices as they were scanned."
        )
    if not labels.any():
        yield "The model found none of its labels."
    if _names_burned_in(scan, task):
        yield f"No {OVERLAY}: the images say that text is burned into them, which may name the patient."


def _names_burned_in(scan: Scan, task: Task) -> bool:
    burned = any(header.get("BurnedInAnnotation") == "YES" for header in scan.series.headers)
    return burned and not task.keep_identity
