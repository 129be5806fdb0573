"""ISIC 2017 and 2018, lesion segmentation: the challenge's folders or VM-UNet's 7:3 folders as an nnU-Net dataset.

Layouts (challenge.isic-archive.com/data, github.com/JCruan519/VM-UNet):

- the challenge's: JPEG images and `<id>_segmentation.png` masks of 0 and 255; `*_superpixels.png` are not images.
  Training and validation become `imagesTr` with one fold, the test set `imagesTs`.
- VM-UNet's: `train/images`, `train/masks`, `val/images`, `val/masks`. The papers report numbers on `val`, so fold 0
  trains on `train` and validates on `val`; there is no further test set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nnunetv2_dsvm.datasets.dataset_json import write_dataset_json
from nnunetv2_dsvm.datasets.problems import Problems, check_is_folder, contents
from nnunetv2_dsvm.datasets.raw_folder import Contents
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import folders_down, inner_folder, visible_files
from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.host.workers import map_with_progress

PARTS = ("training", "validation", "test")
OFFICIAL_FOLDERS = {  # year -> images and masks of each part
    2017: [(f"ISIC-2017_{part}_Data", f"ISIC-2017_{part}_Part1_GroundTruth")
           for part in ("Training", "Validation", "Test_v2")],
    2018: [(f"ISIC2018_Task1-2_{part}_Input", f"ISIC2018_Task1_{part}_GroundTruth")
           for part in ("Training", "Validation", "Test")],
}  # fmt: skip
OFFICIAL_NUMBERS = {2017: (2000, 150, 600), 2018: (2594, 100, 1000)}
SEVEN_TO_THREE = [("train/images", "train/masks"), ("val/images", "val/masks")]
REFERENCE = "https://challenge.isic-archive.com/data; licence CC-0 (2017) or CC BY-NC (2018)"
MIDDLE = 128  # of a mask's grey values: from here on is lesion
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Lesion:
    """One image and its mask; `mask` is None in a test set whose truth was not downloaded."""

    name: str
    image: Path
    mask: Path | None


def read_isic(
    source: Path, year: int, *, size: int | None = None, threshold_masks: bool = False, workers: int = 2
) -> Contents:
    """Verify ISIC's files.

    Args:
        source: the folder that holds the challenge's folders, or `train` and `val`.
        year: 2017 or 2018.
        size: side in pixels of the square that images (bilinear over the pixels that fall into one) and masks (nearest
            neighbour) are resized to, whatever their aspect ratio, as in the literature; None keeps their size.
        threshold_masks: take masks with other values than 0 and 255 too: from 128 on is lesion, as in VM-UNet's
            evaluation.

    Raises:
        UserError: neither layout is there, or files are wrong; the message lists all of them.
    """
    problems = Problems(source)
    parts, notes = _find_parts(_root(source, year), year, problems)
    _check_names(parts, problems)
    lesions = [lesion for part in parts.values() for lesion in part]

    def check(lesion: Lesion) -> tuple[list[tuple[Path, str]], int]:
        return check_lesion(lesion, threshold_masks=threshold_masks)

    checked = map_with_progress(check, lesions, description="checking", workers=workers)
    for findings, _ in checked:
        problems.add_all(findings)
    lesion_from = _lesion_from({lesion: top for lesion, (_, top) in zip(lesions, checked, strict=True)},
                               threshold_masks, problems)  # fmt: skip
    problems.raise_if_any()
    notes.append(", ".join(f"{len(part)} {name} images" for name, part in parts.items()))

    def write(folder: Path) -> None:
        _write(folder, parts, lesion_from, size, year, workers)

    folds = []
    if parts.get("validation"):
        names = ([lesion.name for lesion in parts[part]] for part in ("training", "validation"))
        folds = [dict(zip(("train", "val"), names, strict=True))]
    return Contents(write, folds, notes)


def check_lesion(lesion: Lesion, *, threshold_masks: bool) -> tuple[list[tuple[Path, str]], int]:
    """What is wrong with the two files of a case: (path, text) each; and the mask's largest value, 0 without a mask."""
    findings = []
    sizes, largest = {}, 0
    for path, kind in ((lesion.image, "RGB"), (lesion.mask, "L")):
        if path is None:
            continue
        try:
            pixels = _read(path, kind)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            findings.append((path, f"cannot be read: {error}"))
            continue
        sizes[kind] = pixels.size
        if kind == "L":
            values = set(np.flatnonzero(np.bincount(np.asarray(pixels).ravel(), minlength=256)).tolist())
            largest = max(values)
            if not (values <= {0, 255} or values <= {0, 1} or threshold_masks):
                other = ", ".join(map(str, sorted(values - {0, 255})[:8]))
                findings.append((path, f"has the values {other}, expected 0 and 255 (--threshold-masks takes it)"))
    if len(sizes) == 2 and sizes["RGB"] != sizes["L"]:
        findings.append((lesion.mask, f"is {by(sizes['L'])} pixels, its image {by(sizes['RGB'])}"))
    return findings, largest


def _lesion_from(largest: Mapping[Lesion, int], threshold_masks: bool, problems: Problems) -> int:
    """The value from which on a mask is lesion: one for all masks, or a nearly black one would be misread.

    Args:
        largest: each mask's largest value.
    """
    ones = [lesion for lesion, value in largest.items() if value == 1]
    full = any(value >= MIDDLE for value in largest.values())
    if ones and not full and not threshold_masks:
        return 1
    for lesion in ones if not threshold_masks else ():
        problems.add(lesion.mask, "has the values 0 and 1, but other masks 0 and 255")
    if threshold_masks and any(largest.values()) and not full:
        problems.add("masks", f"none has a value from {MIDDLE} on, which --threshold-masks takes as lesion")
    return MIDDLE


def _read(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError("it has more than 8 bits a channel, expected 8")
        return image.convert(mode)


def _root(source: Path, year: int) -> Path:
    """The folder that holds one of the layouts: `source`, or the only one up to two levels below."""
    check_is_folder(source)
    layouts = [*OFFICIAL_FOLDERS[year], *SEVEN_TO_THREE]
    names = [name for pair in layouts for name in pair]
    inside = {name for pair in OFFICIAL_FOLDERS[year] for name in pair} | {"train", "val"}
    folders = (folder for folder in folders_down(source, 2) if folder == source or folder.name not in inside)
    roots = [folder for folder in folders if any((folder / name).is_dir() for name in names)]
    if len(roots) > 1 and roots[0] != source:
        listed = ", ".join(str(root.relative_to(source)) for root in roots)
        raise UserError(f"{source} holds the data more than once ({listed}); name one of the folders")
    return roots[0] if roots else source


def _find_parts(source: Path, year: int, problems: Problems) -> tuple[dict[str, list[Lesion]], list[str]]:
    official = [[inner_folder(source / name) for name in folders] for folders in OFFICIAL_FOLDERS[year]]
    seven_to_three = [[inner_folder(source / name) for name in folders] for folders in SEVEN_TO_THREE]
    layouts = [any(folder.is_dir() for pair in layout for folder in pair) for layout in (official, seven_to_three)]
    if layouts == [True, True]:
        raise UserError(f"{source} holds both the challenge's folders and train/, val/: move one of them away")
    if layouts == [False, False]:
        expected = ", ".join(name for pair in OFFICIAL_FOLDERS[year] for name in pair)
        raise UserError(
            f"{source} holds neither the unpacked folders of ISIC {year} ({expected}) nor train/images, train/masks, "
            f"val/images, val/masks. It holds {contents(source)}"
        )
    layout, is_official = (official, True) if layouts[0] else (seven_to_three, False)
    parts, notes = {}, []
    for part, (images, masks), number in zip(PARTS, layout, OFFICIAL_NUMBERS[year], strict=False):
        if images.is_dir() or masks.is_dir():
            truth_may_lack = is_official and part == "test"
            parts[part] = _pair(images, masks, problems, truth_may_lack=truth_may_lack)
            if truth_may_lack and not masks.is_dir():
                notes.append(f"no ground truth of the test set: {masks.name} is not there")
            if is_official and len(parts[part]) != number:
                notes.append(f"{len(parts[part])} {part} images; the challenge has {number}")
        elif part == "training" or not is_official:
            problems.add(images, "is missing")
        else:
            notes.append(f"no {part} set: {images.name} is not there")
    if is_official and "validation" not in parts:
        notes.append("without it nnU-Net makes five folds of the training set")
    return parts, notes


def _pair(images: Path, masks: Path, problems: Problems, *, truth_may_lack: bool) -> list[Lesion]:
    for folder in (images, masks):
        if not folder.is_dir() and not (truth_may_lack and folder == masks):
            problems.add(folder, "is missing")
    found_images, found_masks = _by_name(images, problems), _by_name(masks, problems)
    if images.is_dir() and not found_images:
        problems.add(images, f"holds no images (.jpg, .jpeg or .png). It holds {contents(images)}")
    if masks.is_dir():
        for name in sorted(found_images.keys() - found_masks.keys()):
            problems.add(found_images[name], f"has no mask in {masks.name}")
    if images.is_dir():
        for name in sorted(found_masks.keys() - found_images.keys()):
            problems.add(found_masks[name], f"has no image in {images.name}")
    return [Lesion(name, path, found_masks.get(name)) for name, path in sorted(found_images.items())]


def _by_name(folder: Path, problems: Problems) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in visible_files(folder):
        if path.suffix.lower() not in SUFFIXES:
            continue  # the licence, the metadata
        name = path.stem
        if name.lower().endswith("_superpixels"):
            continue
        if name.lower().endswith("_segmentation"):
            name = name[: -len("_segmentation")]
        if name in found:
            problems.add(path, f"has the same id as {found[name].name}")
        else:
            found[name] = path
    return found


def _check_names(parts: dict[str, list[Lesion]], problems: Problems) -> None:
    """An id in two parts would put one image into training and test."""
    seen: dict[str, Lesion] = {}
    for lesion in (lesion for part in parts.values() for lesion in part):
        first = seen.setdefault(lesion.name.lower(), lesion)
        if first is not lesion:
            problems.add(lesion.image, f"has the same id as {first.image.relative_to(problems.source)}")


def _write(
    folder: Path, parts: dict[str, Sequence[Lesion]], lesion_from: int, size: int | None, year: int, workers: int
) -> None:
    def write(job: tuple[Lesion, str]) -> None:
        lesion, where = job
        image = _read(lesion.image, "RGB")
        if size:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        # 3000×2000 pixels at zlib's level 1: 0.6 s and 10 MB, at the default 6: 1.7 s and 9 MB.
        image.save(folder / f"images{where}" / f"{lesion.name}_0000.png", compress_level=1)
        if lesion.mask is None:
            return
        mask = _read(lesion.mask, "L")
        if size:
            mask = mask.resize((size, size), Image.Resampling.NEAREST)
        label = (np.asarray(mask) >= lesion_from).astype(np.uint8)
        Image.fromarray(label).save(folder / f"labels{where}" / f"{lesion.name}.png")

    jobs = [(lesion, "Ts" if part == "test" else "Tr") for part, lesions in parts.items() for lesion in lesions]
    for where in {where for _, where in jobs}:
        (folder / f"images{where}").mkdir()
        if any(lesion.mask for lesion, in_part in jobs if in_part == where):
            (folder / f"labels{where}").mkdir()
    map_with_progress(write, jobs, description="writing", workers=workers)
    write_dataset_json(
        folder,
        description=f"ISIC {year}, lesion segmentation, {f'resized to {size}×{size}' if size else 'original size'}",
        reference=REFERENCE,
        channels=("R", "G", "B"),  # names that nnU-Net does not know: z-score of each channel in each image
        labels=("lesion",),
        file_ending=".png",
        reader="NaturalImage2DIO",
    )
