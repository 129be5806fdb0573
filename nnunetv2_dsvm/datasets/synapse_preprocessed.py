"""TransUNet's preprocessed Synapse files as an nnU-Net dataset.

`train_npz/caseXXXX_sliceYYY.npz` (2D slices) and `test_vol_h5/caseXXXX.npy.h5` (volumes), each with the arrays `image`
and `label`, and the lists `train.txt` and `test_vol.txt`. Intensities were clipped to [-125, 275] HU and scaled to
[0, 1]; the spacing is not in the files, so voxels are 1 mm here, and distances are in voxels.

The slices of a scan are stacked to a volume again (ours): nnU-Net's folds then keep a patient together, its 2d
configuration trains on the same slices, and training and test cases have the same form. The channel is named `noNorm`,
for which nnU-Net leaves intensities as they are: they have the papers' scale already, which `CT` would clip again and
`rescale_to_0_1` would stretch differently in every volume.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_dsvm.datasets.problems import Problems
from nnunetv2_dsvm.datasets.raw_folder import Contents
from nnunetv2_dsvm.datasets.synapse_protocol import BTCV_LABELS, ORGANS, write_volumes
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import inner_folder
from nnunetv2_dsvm.host.workers import map_with_progress
from nnunetv2_dsvm.images.label_values import no_labels

LISTS = ("lists_Synapse", "lists/lists_Synapse", "lists_Synapse/lists_Synapse", "lists/list_Synapse", "lists")
# Values as far as this beyond [0, 1] come from cubic interpolation; HU, or another scaling, lie farther out.
OVERSHOOT = 0.25


@dataclass
class Volume:
    """A case: slices in order (`.npz`), or one `.h5` file."""

    name: str
    files: list[Path]
    is_test: bool
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    range: tuple[float, float] = (0.0, 1.0)
    findings: list[tuple[Path, str]] = field(default_factory=list)


def read_preprocessed(source: Path, *, workers: int) -> Contents:
    """Verify the preprocessed files; see `synapse.read_synapse`.

    Label values above 8 mean that all 13 organs were kept under BTCV's numbers, as some preprocessing scripts do
    (github.com/SLDGroup/CASCADE): they are then mapped to TransUNet's eight. Else they are TransUNet's own.

    Raises:
        UserError: h5py is missing, or files are wrong; the message lists all of them.
    """
    _import_h5py()
    problems = Problems(source)
    volumes = _volumes(source, problems)
    map_with_progress(_check, volumes, description="checking", workers=workers)
    for volume in volumes:
        problems.add_all(volume.findings)
    problems.raise_if_any()
    test = sum(volume.is_test for volume in volumes)
    slices = sum(len(volume.files) for volume in volumes if not volume.is_test)
    notes = [f"{len(volumes) - test} training volumes ({slices} slices) and {test} test volumes, {len(ORGANS)} organs"]
    if (len(volumes) - test, test) != (18, 12):
        notes.append("TransUNet's split has 18 training and 12 test volumes: these are not all, or others")
    low, high = min(volume.range[0] for volume in volumes), max(volume.range[1] for volume in volumes)
    if low < 0 or high > 1:
        notes.append(f"intensities go from {low:.2f} to {high:.2f}, a little beyond [0, 1]; they are kept")
    numbered_as_btcv = max(max(volume.labels) for volume in volumes) > len(ORGANS)
    if numbered_as_btcv:
        notes.append("labels above 8: BTCV's numbers of 13 organs, mapped to the eight")
    else:
        order = ", ".join(f"{number} {name}" for number, name in enumerate(ORGANS, 1))
        notes.append(f"labels taken to be TransUNet's: {order}; files of others may number them differently")
    return Contents(lambda folder: _write(folder, volumes, numbered_as_btcv, workers), notes=notes, fold="all")


def _import_h5py():
    try:
        import h5py
    except ImportError:
        raise UserError("test_vol_h5 needs h5py: pip install 'nnunetv2_dsvm[datasets]'") from None
    return h5py


def _volumes(source: Path, problems: Problems) -> list[Volume]:
    lists = next((source / name for name in LISTS if (source / name / "train.txt").is_file()), source / LISTS[0])
    slices: dict[str, dict[int, Path]] = defaultdict(dict)
    for line in _lines(lists / "train.txt", problems):
        match = re.fullmatch(r"(case\d{4})_slice(\d{3})", line)
        path = inner_folder(source / "train_npz") / f"{line}.npz"
        if not match:
            problems.add(lists / "train.txt", f"{line!r} is not caseXXXX_sliceYYY")
        elif not path.is_file():
            problems.add(path, "is missing, but in train.txt")
        else:
            slices[match[1]][int(match[2])] = path
    volumes = []
    for name, by_number in sorted(slices.items()):
        gaps = sorted(set(range(max(by_number) + 1)) - by_number.keys())
        if gaps:
            problems.add(name, f"lacks the slices {', '.join(f'{number:03d}' for number in gaps[:10])}")
        volumes.append(Volume(name, [by_number[number] for number in sorted(by_number)], is_test=False))
    for name in _lines(lists / "test_vol.txt", problems):
        path = inner_folder(source / "test_vol_h5") / f"{name}.npy.h5"
        if name in slices:
            problems.add(lists / "test_vol.txt", f"{name} is in train.txt too")
        if not re.fullmatch(r"case\d{4}", name):
            problems.add(lists / "test_vol.txt", f"{name!r} is not caseXXXX")
        elif not path.is_file():
            problems.add(path, "is missing, but in test_vol.txt")
        else:
            volumes.append(Volume(name, [path], is_test=True))
    return volumes


def _lines(path: Path, problems: Problems) -> list[str]:
    if not path.is_file():
        problems.add(path, "is missing (it is in TransUNet's repository, lists/lists_Synapse)")
        return []
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for line in sorted({line for line in lines if lines.count(line) > 1}) if len(set(lines)) < len(lines) else ():
        problems.add(path, f"{line} is listed more than once")
    if not lines:
        problems.add(path, "is empty")
    return list(dict.fromkeys(lines))


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`image` and `label`: (H, W) of a slice, (D, H, W) of a volume."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            read = arrays["image"], arrays["label"]
    else:
        with _import_h5py().File(path, "r") as file:
            read = file["image"][()], file["label"][()]
    if any(array.dtype.kind not in "buif" for array in read):
        raise ValueError(f"image and label hold {read[0].dtype} and {read[1].dtype}, expected numbers")
    return read


def _check(volume: Volume) -> None:
    """Fill in what is known of the volume after reading it, and what is wrong with it."""
    for path in volume.files:
        try:
            image, label = _read(path)
        except Exception as error:  # whatever numpy and h5py raise at a file that is something else
            volume.findings.append((path, f"cannot be read: {error or type(error).__name__}"))
            continue
        volume.findings += [(path, text) for text in _check_arrays(image, label, volume)]
    if len({shape[-2:] for shape in volume.shapes}) > 1:
        volume.findings.append((volume.files[0], f"{volume.name} has slices of different sizes: {volume.shapes}"))


def _check_arrays(image: np.ndarray, label: np.ndarray, volume: Volume) -> list[str]:
    dimensions = 3 if volume.is_test else 2
    if image.ndim != dimensions or image.shape != label.shape or not image.size:
        return [f"has an image {image.shape} and a label {label.shape}, expected one shape of {dimensions} dimensions"]
    volume.shapes.add(image.shape)
    texts = []
    low, high = float(image.min()), float(image.max())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # false for NaN too
        texts.append(f"has intensities from {low:g} to {high:g}, expected [0, 1]")
    volume.range = min(volume.range[0], low), max(volume.range[1], high)
    if wrong := no_labels(label):
        texts.append(f"holds values that are no labels: {wrong}")
    values = [value for value in np.unique(label).tolist() if value % 1 == 0]
    other = [value for value in values if value not in range(len(BTCV_LABELS) + 1)]
    if other:
        texts.append(f"has the labels {', '.join(f'{value:g}' for value in other[:8])}, expected 0 to 8")
    volume.labels.update(int(value) for value in values if value not in other)
    return texts


def _write(folder: Path, volumes: list[Volume], numbered_as_btcv: bool, workers: int) -> None:
    table = np.arange(len(BTCV_LABELS) + 1, dtype=np.uint8)
    if numbered_as_btcv:
        table[1:] = [ORGANS.index(name) + 1 if name in ORGANS else 0 for name in BTCV_LABELS]

    def write(volume: Volume) -> None:
        arrays = [_read(path) for path in volume.files]
        if volume.is_test:
            image, label = arrays[0]
        else:
            image, label = (np.stack(slices) for slices in zip(*arrays, strict=True))
        where = "Ts" if volume.is_test else "Tr"
        for array, path in (
            (image.astype(np.float32), folder / f"images{where}" / f"{volume.name}_0000.nii.gz"),
            (table[label.astype(np.uint8)], folder / f"labels{where}" / f"{volume.name}.nii.gz"),
        ):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path), True)

    write_volumes(
        folder,
        write,
        volumes,
        description="Synapse multi-organ (BTCV) as TransUNet preprocessed it: intensities in [0, 1], voxels of 1",
        channel="noNorm",
        workers=workers,
    )
