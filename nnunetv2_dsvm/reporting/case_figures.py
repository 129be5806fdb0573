"""The report's pictures of cases: which, in which colours, and what is written below."""

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.case_picture import write_case_picture
from nnunetv2_dsvm.reporting.case_slices import CaseSlices, colours_of_classes, read_case_slices
from nnunetv2_dsvm.reporting.figure import Figure, picture_name
from nnunetv2_dsvm.reporting.results import Results, ValidationCase
from nnunetv2_dsvm.reporting.tables import shown
from nnunetv2_dsvm.reporting.worst_cases import notable_cases

Say = Callable[[str], None]


def case_figures(
    folder: Path, models: Sequence[TrainedModel], titles: Sequence[str], results: Sequence[Results], say: Say
) -> list[Figure]:
    """Draw each model's best, median and worst case into `folder`; a class has one colour in all of the pictures.

    Args:
        titles: of the models, as `results`, which hold their cases.
        say: told what is being done.
    """
    chosen = _notable(titles, results)
    found = {name: _of_models(titles, results, name) for name in chosen}
    read = {name: _read(models[0], of_models, len(titles) == 1) for name, of_models in found.items()}
    labels = models[0].labels
    colours = colours_of_classes([case for case in read.values() if isinstance(case, CaseSlices)], labels)
    ignored = models[0].dataset_json["labels"].get("ignore")
    figures = []
    for name, ranks in chosen.items():
        heading, dice = f"{name}: {', '.join(ranks)}", _dice(found[name], len(titles) == 1, len(labels) == 1)
        case = read[name]
        if isinstance(case, str):
            figures.append(Figure(heading, None, "", f"{dice} No picture: {case}"))
            continue
        say(f"drawing {name}")
        file = folder / picture_name("case", name)
        write_case_picture(file, case, labels, colours, ignored)
        of_fold = next((f" (fold {c.fold})" for c in found[name].values() if c.fold is not None), "")
        slices = f"slice {case.slice_number} of {case.slices}, the one with the most foreground; "
        panels = [title if title in titles else f"the {title}" for title in case.segmentations]
        caption = (
            f"{dice} {name}{of_fold}: {slices if case.slices > 1 else ''}{case.shown_as}. "
            f"From the left: the image, {', '.join(panels)}."
        )
        alternative = f"{name}: image, {', '.join(case.segmentations)} side by side."
        figures.append(Figure(heading, file, alternative, caption))
    return figures


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


def _read(model: TrainedModel, found: dict[str, ValidationCase], alone: bool) -> CaseSlices | str:
    """A case's slice, or why there is none."""
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
        return read_case_slices(model, images=images, truth=truth, predictions=predictions)
    except Exception as error:  # whatever the reader's library raises at a broken file
        return f"{error or type(error).__name__}"


def _dice(found: dict[str, ValidationCase], alone: bool, one_class: bool) -> str:
    dice = ", ".join(shown(case.mean_dice) + ("" if alone else f" ({title})") for title, case in found.items())
    return f"{'Dice' if one_class else 'Mean Dice'} {dice}."
