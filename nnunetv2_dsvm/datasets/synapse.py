"""Synapse multi-organ (BTCV): the challenge's NIfTI files as an nnU-Net dataset with TransUNet's split and organs.

The training archive of Synapse syn3193805 has 30 labelled abdominal CTs, `img/imgXXXX.nii.gz` and
`label/labelXXXX.nii.gz`, with 13 organs. TransUNet (arXiv 2102.04306) trains on 18, tests on 12 and keeps eight organs;
VM-UNet and its neighbours follow.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from nnunetv2_dsvm.datasets.nifti_pairs import check_pair
from nnunetv2_dsvm.datasets.problems import Problems, check_is_folder, contents
from nnunetv2_dsvm.datasets.raw_cases import merge_labels
from nnunetv2_dsvm.datasets.raw_folder import Contents
from nnunetv2_dsvm.datasets.synapse_preprocessed import read_preprocessed
from nnunetv2_dsvm.datasets.synapse_protocol import BTCV_LABELS, CASES, ORGANS, TEST_CASES, write_volumes
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import files_below, folders_down, visible_files
from nnunetv2_dsvm.host.workers import map_with_progress

PAIRS_OF_FOLDERS = (("img", "label"), ("averaged-training-images", "averaged-training-labels"))
ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    number: str  # "0001"
    image: Path
    label: Path

    @property
    def is_test(self) -> bool:
        return self.number in TEST_CASES


def read_synapse(source: Path, *, workers: int = 2) -> Contents:
    """Verify the NIfTI files, or TransUNet's preprocessed ones where those are in `source`.

    Args:
        source: the folder with `img/` and `label/` (itself or below, e.g. in `averaged-training-images/` or
            `RawData/Training/`), or with `train_npz/`, `test_vol_h5/` and `lists_Synapse/` (itself or up to two
            levels below).

    Raises:
        UserError: neither or both are there, or files are wrong; the message lists all of them.
    """
    check_is_folder(source)
    pairs = _pairs_of_folders(source)
    preprocessed = _preprocessed_folders(source)
    if len(pairs) + len(preprocessed) > 1:
        places = [*(image for image, _ in pairs), *(folder / "train_npz" for folder in preprocessed)]
        found = ", ".join(str(path.relative_to(source)) for path in places)
        raise UserError(f"{source} holds the data more than once ({found}); name one of the folders")
    if preprocessed:
        return read_preprocessed(preprocessed[0], workers=workers)
    if not pairs:
        raise UserError(
            f"{source} holds neither img/ and label/ (NIfTI) nor train_npz/, test_vol_h5/ and lists_Synapse/. "
            f"It holds {contents(source)}"
        )
    return _read_nifti(source, *pairs[0], workers=workers)


def _pairs_of_folders(source: Path) -> list[tuple[Path, Path]]:
    parents = folders_down(source, 3)
    pairs = [(parent / image, parent / label) for parent in parents for image, label in PAIRS_OF_FOLDERS]
    return [(image, label) for image, label in pairs if image.is_dir() and label.is_dir()]


def _preprocessed_folders(source: Path) -> list[Path]:
    """Those that hold train_npz/ or test_vol_h5/; these themselves may hold a folder of their name, as zips unpack."""
    names = ("train_npz", "test_vol_h5")
    folders = [folder for folder in folders_down(source, 2) if folder == source or folder.name not in names]
    return [folder for folder in folders if any((folder / name).is_dir() for name in names)]


def _read_nifti(source: Path, images: Path, labels: Path, *, workers: int) -> Contents:
    if any(path.name.startswith("DET") and "_avg.nii" in path.name for path in visible_files(images)):
        raise UserError(
            f"{images} holds the averaged volumes (DETxxxxxxx_avg.nii.gz), whose numbers are not those of TransUNet's "
            "split. Take RawData.zip from the same place (syn3193805, Abdomen): its Training/img/imgXXXX.nii.gz and "
            "Training/label/labelXXXX.nii.gz"
        )
    problems = Problems(source)
    found_images, found_labels = _by_number(images, "img", problems), _by_number(labels, "label", problems)
    scans = [
        Scan(number, found_images[number], found_labels[number])
        for number in CASES
        if number in found_images and number in found_labels
    ]

    def check(scan: Scan) -> list[tuple[Path, str]]:
        return check_pair(scan.image, scan.label, range(len(BTCV_LABELS) + 1))

    for findings in map_with_progress(check, scans, description="checking", workers=workers):
        problems.add_all(findings)
    problems.raise_if_any()
    test = sum(scan.is_test for scan in scans)
    notes = [f"{len(scans) - test} training and {test} test volumes, {len(ORGANS)} organs (TransUNet's split)"]
    ignored = sorted((found_images.keys() | found_labels.keys()) - set(CASES))
    if ignored:
        notes.append(f"not in that split, left out: {', '.join(ignored)}")
    return Contents(lambda folder: _write(folder, scans, workers), notes=notes, fold="all")


def _by_number(folder: Path, prefix: str, problems: Problems) -> dict[str, Path]:
    """The files of a folder; what is named otherwise, is there twice or lacks a number of the split is a problem."""
    found: dict[str, Path] = {}
    for path in files_below(folder):
        name = next((path.name[: -len(ending)] for ending in ENDINGS if path.name.lower().endswith(ending)), None)
        if name is None:
            continue
        number = name.removeprefix(prefix)
        if not (name.startswith(prefix) and len(number) == 4 and number.isdigit()):
            problems.add(path, f"is not named {prefix}XXXX.nii.gz, by which the split knows it")
        elif number in found:
            problems.add(path, f"has the same number as {found[number].name}")
        else:
            found[number] = path
    if not found:
        raise UserError(f"{folder} holds no {prefix}XXXX.nii.gz or .nii. It holds {contents(folder)}")
    for number in CASES:
        if number not in found:
            problems.add(folder / f"{prefix}{number}.nii.gz", "is missing")
    return found


def _write(folder: Path, scans: list[Scan], workers: int) -> None:
    def write(scan: Scan) -> None:
        where = "Ts" if scan.is_test else "Tr"
        image_path = folder / f"images{where}" / f"case{scan.number}_0000.nii.gz"
        image = sitk.ReadImage(str(scan.image))
        if scan.image.name.lower().endswith(".nii.gz"):
            shutil.copyfile(scan.image, image_path)
        else:
            sitk.WriteImage(image, str(image_path), True)
        groups = {name: [BTCV_LABELS.index(name) + 1] for name in ORGANS}
        label = merge_labels(sitk.ReadImage(str(scan.label)), groups)
        label.CopyInformation(image)  # equal but for rounding, which the check has seen
        sitk.WriteImage(label, str(folder / f"labels{where}" / f"case{scan.number}.nii.gz"), True)

    write_volumes(
        folder,
        write,
        scans,
        description="Synapse multi-organ (BTCV) abdominal CT, TransUNet's eight organs and 18/12 split",
        channel="CT",
        workers=workers,
    )
