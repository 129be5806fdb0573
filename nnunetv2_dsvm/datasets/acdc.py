"""ACDC (cine MRI of the heart) by nnU-Net's own converter, with the 70/10/20 split of the papers.

nnU-Net's converter takes the 100 training patients, two frames each, as training cases and the 50 of the challenge's
test set as test cases. The papers divide the 100 patients into 70, 10 and 20. TransUNet, the first, did not publish
which; the division here is nnFormer's (github.com/282857341/nnFormer, its dataset JSON and trainer), by patient: the 20
go to `imagesTs` with their labels, fold 0 trains on the 70 and validates on the 10. The challenge's own test set goes
to `imagesTs_challenge`, which nnU-Net does not read.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.datasets.nifti_pairs import check_pair
from nnunetv2_dsvm.datasets.problems import Problems, check_is_folder
from nnunetv2_dsvm.datasets.raw_folder import Contents
from nnunetv2_dsvm.datasets.workers import map_with_progress
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.version import __version__

TEST_PATIENTS = (2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95)
VALIDATION_PATIENTS = (89, 90, 91, 93, 94, 96, 97, 98, 99, 100)
TRAINING_PATIENTS = tuple(sorted(set(range(1, 101)) - set(TEST_PATIENTS) - set(VALIDATION_PATIENTS)))
LABELS = range(4)  # background, right ventricle, myocardium, left ventricle
FRAME = re.compile(r"(patient(\d{3})_frame\d{2})\.nii\.gz")


@dataclass(frozen=True)
class Frame:
    name: str
    patient: int
    image: Path
    label: Path | None


def read_acdc(source: Path, *, workers: int = 2) -> Contents:
    """Verify the files that nnU-Net's converter will copy.

    Args:
        source: the folder with `training/` and `testing/` (itself or up to two levels below), unpacked.

    Raises:
        UserError: the folders are not there, or files are wrong; the message lists all of them.
    """
    root = _find_root(source)
    problems = Problems(source)
    training = _frames(root / "training", problems)
    _check_patients(training, root / "training", problems)
    challenge = _frames(root / "testing", problems)
    for name in sorted({frame.name for frame in training} & {frame.name for frame in challenge}):
        problems.add(name, "is in training and in testing")
    with_label = [frame for frame in challenge if frame.label]
    for frame in training + (challenge if with_label else []):  # older archives have no labels in testing at all
        if frame.label is None:
            problems.add(frame.image, f"has no label, {frame.name}_gt.nii.gz")

    def check(frame: Frame) -> list[tuple[Path, str]]:
        return check_pair(frame.image, frame.label, LABELS)

    for findings in map_with_progress(check, training + challenge, description="checking", workers=workers):
        problems.add_all(findings)
    problems.raise_if_any()
    names = {
        part: [frame.name for frame in training if frame.patient in patients]
        for part, patients in (("train", TRAINING_PATIENTS), ("val", VALIDATION_PATIENTS), ("test", TEST_PATIENTS))
    }
    notes = [", ".join(f"{len(names[part])} frames to {part}" for part in names) + " (nnFormer's split by patient)"]
    if not with_label:
        notes.append("no labels of the challenge's test set")
    return Contents(
        lambda folder: _write(folder, root, names["test"], challenge),
        [{"train": names["train"], "val": names["val"]}],
        notes,
    )


def _find_root(source: Path) -> Path:
    check_is_folder(source)
    candidates = [source, *sorted(source.glob("*")), *sorted(source.glob("*/*"))]
    for root in candidates:
        if (root / "training").is_dir() and (root / "testing").is_dir():
            return root
    raise UserError(f"{source} does not hold ACDC's folders training/ and testing/, which nnU-Net's converter needs")


def _frames(folder: Path, problems: Problems) -> list[Frame]:
    frames: dict[str, Frame] = {}
    for path in sorted(folder.glob("*/*.gz")):  # what the converter takes: not the 4D series, not the labels
        if "_4d" in path.name:
            continue
        if path.name.startswith("."):
            problems.add(path, "is a hidden file, which nnU-Net's converter would copy: remove it")
            continue
        if "_gt" in path.name:
            continue
        match = FRAME.fullmatch(path.name)
        if not match or not path.name.startswith(path.parent.name):
            problems.add(path, f"is not {path.parent.name}_frameYY.nii.gz")
        elif match[1] in frames:
            problems.add(path, f"has the same id as {frames[match[1]].image.relative_to(problems.source)}")
        else:
            label = path.with_name(f"{match[1]}_gt.nii.gz")
            frames[match[1]] = Frame(match[1], int(match[2]), path, label if label.is_file() else None)
    for path in sorted(folder.glob("*/*_gt.nii.gz")):
        if path.name.removesuffix("_gt.nii.gz") not in frames and not path.name.startswith("."):
            problems.add(path, "has no image")
    return list(frames.values())


def _check_patients(frames: list[Frame], folder: Path, problems: Problems) -> None:
    for patient in range(1, 101):
        count = sum(frame.patient == patient for frame in frames)
        if count != 2:
            problems.add(folder / f"patient{patient:03d}", f"has {count} frames, expected 2 (diastole and systole)")
    for patient in sorted({frame.patient for frame in frames} - set(range(1, 101))):
        problems.add(folder / f"patient{patient:03d}", "is none of the 100 training patients")


def _write(folder: Path, root: Path, test: list[str], challenge: list[Frame]) -> None:
    print("nnU-Net's converter copies the files …", flush=True)
    folder.rmdir()  # the converter makes it, from its ID
    with _converter_writing_below(folder.parent) as converter:
        converter.convert_acdc(str(root), int(folder.name[len("Dataset") :][:3]))
    (folder / "imagesTs").rename(folder / "imagesTs_challenge")
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir()
    for case in test:
        for kind, name in (("images", f"{case}_0000.nii.gz"), ("labels", f"{case}.nii.gz")):
            (folder / f"{kind}Tr" / name).rename(folder / f"{kind}Ts" / name)
    labelled = [frame for frame in challenge if frame.label]
    if labelled:
        (folder / "labelsTs_challenge").mkdir()
    for frame in labelled:
        shutil.copyfile(frame.label, folder / "labelsTs_challenge" / f"{frame.name}.nii.gz")
    path = folder / "dataset.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content |= {
        "numTraining": len(list((folder / "labelsTr").iterdir())),
        "description": "ACDC, 70/10/20 patients as in nnFormer",
        "reference": "https://www.creatis.insa-lyon.fr/Challenge/acdc (registration)",
        "licence": "see the reference",
        "converted_by": f"nnU-Net's converter, nnunetv2_dsvm {__version__}",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _converter_writing_below(folder: Path) -> Iterator[object]:
    """nnU-Net's converter module, which takes its target from its own variable `nnUNet_raw`.

    In nnU-Net 2.8.1 that variable is a path object, of which the converter uses methods that only a string has: without
    this it stops with an AttributeError.
    """
    from nnunetv2.dataset_conversion import Dataset027_ACDC as converter

    before = converter.nnUNet_raw
    converter.nnUNet_raw = str(folder)
    try:
        yield converter
    finally:
        converter.nnUNet_raw = before
