"""ISIC 2017 and 2018, lesion segmentation: the challenge's folders or VM-UNet's 7:3 folders as an nnU-Net dataset.

Of the challenge's, training and validation become `imagesTr` with one fold, the test set `imagesTs`. VM-UNet's papers
report numbers on `val`, so fold 0 trains on `train` and validates on `val`; there is no further test set.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from nnunetv2_dsvm.datasets.dataset_json import write_dataset_json
from nnunetv2_dsvm.datasets.isic_layouts import Lesion, find_lesions
from nnunetv2_dsvm.datasets.problems import Problems
from nnunetv2_dsvm.datasets.raw_folder import Contents
from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.host.workers import map_with_progress

REFERENCE = "https://challenge.isic-archive.com/data; licence CC-0 (2017) or CC BY-NC (2018)"
MIDDLE = 128  # of a mask's grey values: from here on is lesion


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
    parts, notes = find_lesions(source, year, problems)
    lesions = [lesion for part in parts.values() for lesion in part]

    def check(lesion: Lesion) -> tuple[list[tuple[Path, str]], int]:
        return check_lesion(lesion, threshold_masks=threshold_masks)

    checked = map_with_progress(check, lesions, description="checking", workers=workers)
    for findings, _ in checked:
        problems.add_all(findings)
    largest = {lesion.mask: value for lesion, (_, value) in zip(lesions, checked, strict=True) if lesion.mask}
    lesion_from = _lesion_from(largest, threshold_masks, problems)
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
    if lesion.mask and len(sizes) == 2 and sizes["RGB"] != sizes["L"]:
        findings.append((lesion.mask, f"is {by(sizes['L'])} pixels, its image {by(sizes['RGB'])}"))
    return findings, largest


def _lesion_from(largest: Mapping[Path, int], threshold_masks: bool, problems: Problems) -> int:
    """The value from which on a mask is lesion: one for all masks, or a nearly black one would be misread.

    Args:
        largest: each mask's largest value.
    """
    ones = [mask for mask, value in largest.items() if value == 1]
    full = any(value >= MIDDLE for value in largest.values())
    if ones and not full and not threshold_masks:
        return 1
    for mask in ones if not threshold_masks else ():
        problems.add(mask, "has the values 0 and 1, but other masks 0 and 255")
    if threshold_masks and any(largest.values()) and not full:
        problems.add("masks", f"none has a value from {MIDDLE} on, which --threshold-masks takes as lesion")
    return MIDDLE


def _read(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError("it has more than 8 bits a channel, expected 8")
        return image.convert(mode)


def _write(
    folder: Path, parts: Mapping[str, list[Lesion]], lesion_from: int, size: int | None, year: int, workers: int
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
