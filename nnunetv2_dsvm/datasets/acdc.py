"""ACDC (cine MRI of the heart) as nnU-Net's own converter writes it, with the 70/10/20 split of the papers.

nnU-Net's converter takes the 100 training patients, two frames each, as training cases and the 50 of the challenge's
test set as test cases. The papers divide the 100 patients into 70, 10 and 20. TransUNet, the first, did not publish
which; the division here is nnFormer's (github.com/282857341/nnFormer, its dataset JSON and trainer), by patient: the 20
go to `imagesTs` with their labels, fold 0 trains on the 70 and validates on the 10. The challenge's own test set goes
to `imagesTs_challenge`, which nnU-Net does not read; public copies often lack it.

The files get the converter's names, channel and labels. The converter itself needs `testing/`, passes over `.nii` and
takes hidden files for frames.
"""

import gzip
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.datasets.dataset_json import write_dataset_json
from nnunetv2_dsvm.datasets.nifti_pairs import check_pair
from nnunetv2_dsvm.datasets.problems import Problems, check_is_folder, contents
from nnunetv2_dsvm.datasets.raw_folder import Contents
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import files_below, folders_down, visible, visible_folders
from nnunetv2_dsvm.host.workers import map_with_progress
from nnunetv2_dsvm.images.nifti_files import is_nifti

TEST_PATIENTS = (2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95)
VALIDATION_PATIENTS = (89, 90, 91, 93, 94, 96, 97, 98, 99, 100)
TRAINING_PATIENTS = tuple(sorted(set(range(1, 101)) - set(TEST_PATIENTS) - set(VALIDATION_PATIENTS)))
LABELS = ("RV", "MLV", "LVC")  # right ventricle, myocardium, left ventricle
FRAME = re.compile(r"(patient(\d{3})_frame\d{2})(_gt)?\.nii(\.gz)?", re.IGNORECASE)
PATIENT = re.compile(r"patient\d{3}", re.IGNORECASE)  # begins the name of a patient's folder and files


@dataclass(frozen=True)
class Frame:
    name: str
    patient: int
    image: Path
    label: Path | None


def read_acdc(source: Path, *, workers: int = 2) -> Contents:
    """Verify ACDC's files, `.nii.gz` or `.nii`.

    Args:
        source: the folder with `training/` and, if it was downloaded, `testing/` (itself or up to three levels below),
            or the one with the patients' folders.

    Raises:
        UserError: the folders are not there, or files are wrong; the message lists all of them.
    """
    training_folder, challenge_folder = _find_folders(source)
    problems = Problems(source)
    training = _frames(training_folder, problems)
    if not training:
        raise UserError(
            f"{training_folder} holds no frames patientXXX_frameYY.nii.gz or .nii, in folders patientXXX or not. "
            f"It holds {contents(training_folder)}"
        )
    _check_patients(training, training_folder, problems)
    challenge = _frames(challenge_folder, problems) if challenge_folder else []
    for name in sorted({frame.name for frame in training} & {frame.name for frame in challenge}):
        problems.add(name, "is in training and in testing")
    with_label = [frame for frame in challenge if frame.label]
    for frame in training + (challenge if with_label else []):  # older archives have no labels in testing at all
        if frame.label is None:
            problems.add(frame.image, f"has no label, {frame.name}_gt.nii.gz")

    def check(frame: Frame) -> list[tuple[Path, str]]:
        return check_pair(frame.image, frame.label, range(len(LABELS) + 1))

    for findings in map_with_progress(check, training + challenge, description="checking", workers=workers):
        problems.add_all(findings)
    problems.raise_if_any()
    parts = {
        part: [frame for frame in training if frame.patient in patients]
        for part, patients in (("train", TRAINING_PATIENTS), ("val", VALIDATION_PATIENTS), ("test", TEST_PATIENTS))
    }
    notes = [", ".join(f"{len(parts[part])} frames to {part}" for part in parts) + " (nnFormer's split by patient)"]
    if not challenge:
        notes.append("no challenge test set: there is no testing/ with frames")
    elif not with_label:
        notes.append("no labels of the challenge's test set")
    places = {"Tr": parts["train"] + parts["val"], "Ts": parts["test"], "Ts_challenge": challenge}
    return Contents(
        lambda folder: _write(folder, places, workers),
        [{part: [frame.name for frame in parts[part]] for part in ("train", "val")}],
        notes,
    )


def _find_folders(source: Path) -> tuple[Path, Path | None]:
    """The folders of the training patients and of the challenge's test set."""
    check_is_folder(source)
    below = list(folders_down(source, 3))
    named = [folder for folder in below[1:] if folder.name.lower() == "training"]
    # An archive unpacked into a folder of its own has training/training; without training/, the patients lie in one.
    outer = [folder for folder in named if not any(parent in named for parent in folder.parents)]
    found = outer or [folder for folder in below if any(PATIENT.match(path.name) for path in visible(folder))][:1]
    if found and found[0] != source and found[0].name.lower() == "testing":
        raise UserError(
            f"{source} holds ACDC's folder testing/, the challenge's test set, and not training/ with the 100 patients"
        )
    if not found:
        raise UserError(
            f"{source} holds neither ACDC's folder training/ (beside testing/) nor folders patientXXX. "
            f"It holds {contents(source)}"
        )
    if len(found) > 1:
        listed = ", ".join(str(folder.relative_to(source)) for folder in found)
        raise UserError(f"{source} holds the data more than once ({listed}); name one of the folders above them")
    beside = visible_folders(found[0].parent) if outer else []
    return found[0], next((folder for folder in beside if folder.name.lower() == "testing"), None)


def _frames(folder: Path, problems: Problems) -> list[Frame]:
    """The frames in a folder's folders; not the 4D series, which the converter does not take either."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in files_below(folder):
        if not is_nifti(path) or "_4d" in path.name.lower():
            continue
        match = FRAME.fullmatch(path.name)
        if not match:
            problems.add(path, "is neither patientXXX_frameYY.nii.gz nor patientXXX_frameYY_gt.nii.gz")
            continue
        name, found = match[1].lower(), labels if match[3] else images
        patients = [part.lower() for part in path.relative_to(folder).parts[:-1] if PATIENT.match(part)]
        if any(not name.startswith(patient[: len("patient000")]) for patient in patients):
            problems.add(path, "is in the folder of another patient")
        elif name in found:
            problems.add(path, f"has the same id as {found[name].relative_to(problems.source)}")
        else:
            found[name] = path
    for name in sorted(labels.keys() - images.keys()):
        problems.add(labels[name], "has no image")
    return [Frame(name, int(name[len("patient") :][:3]), images[name], labels.get(name)) for name in sorted(images)]


def _check_patients(frames: list[Frame], folder: Path, problems: Problems) -> None:
    for patient in range(1, 101):
        count = sum(frame.patient == patient for frame in frames)
        if count != 2:
            problems.add(folder / f"patient{patient:03d}", f"has {count} frames, expected 2 (diastole and systole)")
    for patient in sorted({frame.patient for frame in frames} - set(range(1, 101))):
        problems.add(folder / f"patient{patient:03d}", "is none of the 100 training patients")


def _write(folder: Path, places: Mapping[str, Sequence[Frame]], workers: int) -> None:
    files: list[tuple[Path, Path]] = []
    for place, frames in places.items():
        for frame in frames:
            files.append((frame.image, folder / f"images{place}" / f"{frame.name}_0000.nii.gz"))
            if frame.label:
                files.append((frame.label, folder / f"labels{place}" / f"{frame.name}.nii.gz"))
    for parent in {target.parent for _, target in files}:
        parent.mkdir()
    map_with_progress(_copy, files, description="writing", workers=workers)
    write_dataset_json(
        folder,
        description="ACDC, 70/10/20 patients as in nnFormer",
        reference="https://www.creatis.insa-lyon.fr/Challenge/acdc (registration)",
        channels=("cineMRI",),
        labels=LABELS,
        file_ending=".nii.gz",
        reader="SimpleITKIO",
    )


def _copy(source_and_target: tuple[Path, Path]) -> None:
    """The file's bytes, compressed if they were not."""
    source, target = source_and_target
    if source.name.lower().endswith(".gz"):
        shutil.copyfile(source, target)
        return
    with open(source, "rb") as file, gzip.GzipFile(target, "wb", compresslevel=6, mtime=0) as compressed:
        shutil.copyfileobj(file, compressed)
