"""The two layouts of ISIC 2017 and 2018 on the disk, and the images and masks in them.

Layouts (challenge.isic-archive.com/data, github.com/JCruan519/VM-UNet):

- the challenge's: JPEG images and `<id>_segmentation.png` masks of 0 and 255; `*_superpixels.png` are not images.
- VM-UNet's: `train/images`, `train/masks`, `val/images`, `val/masks`.
"""

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.datasets.problems import Problems, check_is_folder, contents
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import folders_down, inner_folder, visible_files

PARTS = ("training", "validation", "test")
OFFICIAL_FOLDERS = {  # year -> images and masks of each part
    2017: [(f"ISIC-2017_{part}_Data", f"ISIC-2017_{part}_Part1_GroundTruth")
           for part in ("Training", "Validation", "Test_v2")],
    2018: [(f"ISIC2018_Task1-2_{part}_Input", f"ISIC2018_Task1_{part}_GroundTruth")
           for part in ("Training", "Validation", "Test")],
}  # fmt: skip
OFFICIAL_NUMBERS = {2017: (2000, 150, 600), 2018: (2594, 100, 1000)}
SEVEN_TO_THREE = [("train/images", "train/masks"), ("val/images", "val/masks")]
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Lesion:
    """One image and its mask; `mask` is None in a test set whose truth was not downloaded."""

    name: str
    image: Path
    mask: Path | None


def find_lesions(source: Path, year: int, problems: Problems) -> tuple[dict[str, list[Lesion]], list[str]]:
    """The lesions of each part that is there (`PARTS`), and what the user should know, one line each.

    Args:
        source: holds one of the layouts, itself or up to two levels below.
        year: 2017 or 2018.
        problems: told what is wrong with the files.

    Raises:
        UserError: no layout is there, or the data are there more than once.
    """
    parts, notes = _find_parts(_root(source, year), year, problems)
    _check_names(parts, problems)
    return parts, notes


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
