"""The report's pictures and what is written about them; of the cases also which, and in which colours."""

import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.case_picture import write_case_picture
from nnunetv2_dsvm.reporting.case_slices import CaseSlices, colours_of_classes, read_case_slices
from nnunetv2_dsvm.reporting.results import Results, ValidationCase
from nnunetv2_dsvm.reporting.tables import shown

RANKS = ("best", "median", "worst")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Illustration:
    """A picture with its caption; without a file, the caption says why there is none."""

    heading: str
    file: Path | None
    alternative: str
    caption: str


def picture_name(kind: str, title: str) -> str:
    """The file name of a picture; other characters than those of plain names give way to a checksum."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in title)
    unique = plain if plain == title else f"{plain}_{zlib.crc32(title.encode()):08x}"  # or two could have one name
    return f"report_{kind}_{unique}.png"


def case_illustrations(
    folder: Path, models: Sequence[TrainedModel], titles: Sequence[str], results: Sequence[Results]
) -> list[Illustration]:
    """Draw each model's best, median and worst case into `folder`; a class has one colour in all of the pictures.

    Args:
        titles: of the models, as `results`, which hold their cases.
    """
    chosen = _notable(titles, results)
    found = {name: _of_models(titles, results, name) for name in chosen}
    in_3d = any(model.dimensions == 3 for model in models)
    read = {name: _read(models[0], of_models, len(titles) == 1, in_3d) for name, of_models in found.items()}
    labels = models[0].labels
    colours = colours_of_classes(
        [plane for case in read.values() if not isinstance(case, str) for plane in case], labels
    )
    ignored = models[0].dataset_json["labels"].get("ignore")
    illustrations = []
    for name, ranks in chosen.items():
        heading, dice = f"{name}: {', '.join(ranks)}", _dice(found[name], len(titles) == 1, len(labels) == 1)
        case = read[name]
        if isinstance(case, str):
            illustrations.append(Illustration(heading, None, "", f"{dice} No picture: {case}"))
            continue
        _LOG.info("drawing %s", name)
        file = folder / picture_name("case", name)
        write_case_picture(file, case, labels, colours, ignored)
        of_fold = next((f" (fold {c.fold})" for c in found[name].values() if c.fold is not None), "")
        panels = [title if title in titles else f"the {title}" for title in case[0].segmentations]
        caption = (
            f"{dice} {name}{of_fold}: {_slices_in_words(case)}{case[0].shown_as}. "
            f"From the left: the image, {', '.join(panels)}."
        )
        alternative = f"{name}: image, {', '.join(case[0].segmentations)} side by side."
        illustrations.append(Illustration(heading, file, alternative, caption))
    return illustrations


def notable_cases(cases: Sequence[ValidationCase]) -> dict[str, ValidationCase]:
    """The best, the median and the worst case by mean foreground Dice; fewer where there are fewer than three.

    Cases in which no class has a Dice (all masks empty) are left out. Of an even number, the median is the lower one
    of the two in the middle; ties go by name.
    """
    ranked = sorted((c for c in cases if not math.isnan(c.mean_dice)), key=lambda case: (-case.mean_dice, case.name))
    if not ranked:
        return {}
    places = {"best": 0, "worst": len(ranked) - 1, "median": len(ranked) // 2}
    taken: dict[int, str] = {}
    for rank, place in places.items():
        taken.setdefault(place, rank)
    chosen = {rank: ranked[place] for place, rank in taken.items()}
    return {rank: chosen[rank] for rank in RANKS if rank in chosen}


def _notable(titles: Sequence[str], results: Sequence[Results]) -> dict[str, list[str]]:
    """Case names, each with the ranks it was chosen for: worst cases last, as they are ranked by the first model."""
    chosen: dict[str, list[str]] = {}
    for title, of_model in zip(titles, results, strict=True):
        for rank, case in notable_cases(of_model.cases).items():
            chosen.setdefault(case.name, []).append(rank if len(titles) == 1 else f"{rank} of {title}")
    return chosen


def _of_models(titles: Sequence[str], results: Sequence[Results], name: str) -> dict[str, ValidationCase]:
    """A case by the title of the model that was validated on it."""
    return {
        title: case
        for title, of_model in zip(titles, results, strict=True)
        for case in of_model.cases
        if case.name == name
    }


def _slices_in_words(planes: Sequence[CaseSlices]) -> str:
    """Which slices are shown, and why these; nothing of an image that has one."""
    if planes[0].slices == 1:
        return ""
    shown_slices = [f"{p.plane} " * (len(planes) > 1) + f"slice {p.slice_number} of {p.slices}" for p in planes]
    return f"{', '.join(shown_slices)}, the one{'s' * (len(planes) > 1)} with the most foreground; "


def _read(
    model: TrainedModel, found: dict[str, ValidationCase], alone: bool, three_planes: bool
) -> list[CaseSlices] | str:
    """A case's slices, or why there are none."""
    cases = list(found.values())
    images = model.image_files(cases[0].name)
    truth = next((case.reference for case in cases if case.reference is not None), None)
    lacking = [what for what, there in (("image", images), ("ground truth", truth)) if not there]
    if truth is None or lacking:
        return f"the {' and the '.join(lacking)} is not in nnUNet_raw."
    predictions = {
        "prediction" if alone else title: case.prediction
        for title, case in found.items()
        if case.prediction is not None
    }
    try:
        return read_case_slices(model, images=images, truth=truth, predictions=predictions, three_planes=three_planes)
    except Exception as error:  # whatever the reader's library raises at a broken file
        return f"{error or type(error).__name__}"


def _dice(found: dict[str, ValidationCase], alone: bool, one_class: bool) -> str:
    dice = ", ".join(shown(case.mean_dice) + ("" if alone else f" ({title})") for title, case in found.items())
    return f"{'Dice' if one_class else 'Mean Dice'} {dice}."
