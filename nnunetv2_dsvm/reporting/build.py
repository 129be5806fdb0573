"""Make the report: read everything, draw in a folder of its own, and move the finished files into their place."""

import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.listing import visible_files
from nnunetv2_dsvm.reporting.case_picture import write_case_picture
from nnunetv2_dsvm.reporting.curves import Curves, limits, read_curves, write_curves
from nnunetv2_dsvm.reporting.html import PACKAGE, Column, Figure, render, shown, shown_spread
from nnunetv2_dsvm.reporting.models import TrainedModel
from nnunetv2_dsvm.reporting.papers import read_papers_numbers
from nnunetv2_dsvm.reporting.results import MEAN, Results, ValidationCase, read_results
from nnunetv2_dsvm.reporting.worst_cases import notable_cases

REPORT = "report.html"
PICTURES = "report_{kind}_{name}.png"


def write_report(
    models: Sequence[TrainedModel], folds: Sequence[str], folder: Path, say: Callable[[str], None]
) -> list[Path]:
    """Write `report.html` and its pictures `report_*.png`; an earlier report in `folder` is replaced, nothing else.

    Which pictures are an earlier report's stands in its HTML.

    Args:
        models: of one dataset, in the order of their columns.
        folds: those of every model.
        folder: created if it is missing.
        say: told what is being done.

    Returns:
        The files, the HTML first.

    Raises:
        UserError: results are missing, or the folder cannot be written or holds somebody else's `report.html`; then
            nothing in it was changed.
    """
    titles = _titles(models)
    other = [title for title, model in zip(titles, models, strict=True) if model.labels != models[0].labels]
    if other:
        raise UserError(f"{', '.join(other)} has other labels than {titles[0]}: make a report of each")
    earlier = _pictures_of_earlier_report(folder)
    say("reading metrics and checkpoints")
    results = [read_results(model, folds) for model in models]
    curves = [read_curves(model, folds) for model in models]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error}. Choose another folder with -o") from error
    try:
        columns = []
        ranges = limits(curves)
        for model, title, of_model, result in zip(models, titles, curves, results, strict=True):
            say(f"drawing the training curves of {title}")
            figure = _curves_figure(partial, title, of_model, ranges)
            notes = list(of_model.notes)
            if {case.name for case in result.cases} != {case.name for case in results[0].cases}:
                notes.append(f"Validated on other cases than {titles[0]}: the numbers do not compare.")
            if "all" in folds:
                notes.append("Fold all is validated on the cases it was trained on.")
            facts, papers = _facts(model, folds, of_model, result), read_papers_numbers(model, folds)
            columns.append(Column(title, facts, result, figure, notes, papers))
        cases = [
            _case_figure(partial, models, titles, results, name, ranks, say)
            for name, ranks in _notable(titles, results).items()
        ]
        text = render(
            title=models[0].dataset,
            subtitle=f"{', '.join(titles)} · plans {_joined(m.plans_name for m in models)} · "
            f"{_joined(m.configuration for m in models)} · fold{'s' * (len(folds) > 1)} {', '.join(folds)}",
            columns=columns,
            cases=cases,
        )
        (partial / REPORT).write_text(text, encoding="utf-8")
        return _move_into_place(partial, folder, earlier)
    except OSError as error:
        raise UserError(f"the report could not be written into {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _pictures_of_earlier_report(folder: Path) -> list[str]:
    file = folder / REPORT
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    if f'<meta name="generator" content="{PACKAGE}' not in text:
        raise UserError(f"{file} was not made by this command; nothing was touched. Choose another folder with -o")
    return re.findall(r'title="(report_[^"/]+\.png)"', text)


def _move_into_place(partial: Path, folder: Path, earlier: Sequence[str]) -> list[Path]:
    pictures = [path.name for path in visible_files(partial, ".png")]
    foreign = [name for name in pictures if name not in earlier and (folder / name).exists()]
    if foreign:
        raise UserError(
            f"{', '.join(foreign)} in {folder} was not made by this command; nothing was touched. Move it away, or "
            "choose another folder with -o"
        )
    for name in [*pictures, REPORT]:
        os.replace(partial / name, folder / name)
    for name in set(earlier) - set(pictures):
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in [REPORT, *pictures]]


def _titles(models: Sequence[TrainedModel]) -> list[str]:
    """The trainers' names, with plans and configuration where the models differ in them, and numbers if need be."""
    parts = [("trainer",), ("trainer", "plans_name"), ("trainer", "plans_name", "configuration")]
    for names in parts:
        titles = [", ".join(getattr(model, name) for name in names) for model in models]
        if len(set(titles)) == len(titles):
            return titles
    return [f"{title} ({i})" for i, title in enumerate(titles, start=1)]


def _facts(model: TrainedModel, folds: Sequence[str], curves: Curves, results: Results) -> dict[str, str]:
    epochs = [len(history.get("train_losses", ())) for history in curves.histories.values()]
    return {
        "trainer": model.trainer,
        "plans": model.plans_name,
        "configuration": model.configuration,
        "folds": ", ".join(folds),
        "epochs": _joined(epochs) or "–",
        "validation cases": str(len(results.cases)),
        "mean Dice": shown_spread(results.summary[MEAN]["Dice"], "Dice"),
    }


def _curves_figure(folder: Path, title: str, curves: Curves, ranges: dict[str, tuple[float, float]]) -> Figure:
    if not curves.panels:
        return Figure(title, None, "", "No training curves: the checkpoints hold no logged values.")
    file = folder / PICTURES.format(kind="curves", name=_file_name(title))
    write_curves(file, curves, ranges)
    names = [panel.title for panel in curves.panels]
    caption = "One line per fold. Pseudo Dice is nnU-Net's estimate from validation patches while it trains."
    if any(name.startswith("L_p") for name in names):
        caption += " L_proj and L_prog are the two distillation terms without their weights."
    return Figure(title, file, f"Training curves of {title} over the epochs: {', '.join(names)}.", caption)


def _notable(titles: Sequence[str], results: Sequence[Results]) -> dict[str, list[str]]:
    """Case names, each with the ranks it was chosen for: worst cases last, as they are ranked by the first model."""
    chosen: dict[str, list[str]] = {}
    for title, of_model in zip(titles, results, strict=True):
        for rank, case in notable_cases(of_model.cases).items():
            chosen.setdefault(case.name, []).append(rank if len(titles) == 1 else f"{rank} of {title}")
    return chosen


def _case_figure(
    folder: Path,
    models: Sequence[TrainedModel],
    titles: Sequence[str],
    results: Sequence[Results],
    name: str,
    ranks: Sequence[str],
    say: Callable[[str], None],
) -> Figure:
    say(f"drawing {name}")
    heading = f"{name}: {', '.join(ranks)}"
    found: dict[str, ValidationCase] = {}
    for title, of_model in zip(titles, results, strict=True):
        found.update((title, case) for case in of_model.cases if case.name == name)
    alone = len(titles) == 1
    dice = ", ".join(shown(case.mean_dice) + ("" if alone else f" ({title})") for title, case in found.items())
    dice = f"Mean Dice {dice}."
    images = models[0].image_files(name)
    truth = next((case.reference for case in found.values() if case.reference is not None), None)
    predictions = {
        "prediction" if alone else title: case.prediction
        for title, case in found.items()
        if case.prediction is not None
    }
    lacking = [what for what, there in (("image", images), ("ground truth", truth)) if not there]
    if lacking:
        return Figure(heading, None, "", f"{dice} No picture: the {' and the '.join(lacking)} is not in nnUNet_raw.")
    file = folder / PICTURES.format(kind="case", name=_file_name(name))
    try:
        picture = write_case_picture(file, models[0], images=images, truth=truth, predictions=predictions)
    except Exception as error:  # whatever the reader's library raises at a broken file
        return Figure(heading, None, "", f"{dice} No picture: {error or type(error).__name__}")
    of_fold = next((f" (fold {case.fold})" for case in found.values() if case.fold is not None), "")
    slices = f"slice {picture.slice_number} of {picture.slices}, the one with the most foreground; "
    caption = (
        f"{dice} {name}{of_fold}: {slices if picture.slices > 1 else ''}{picture.shown_as}. From the left: the image, "
        f"{', '.join(['the ground truth', *[f'the {title}' if alone else title for title in predictions]])}."
    )
    return Figure(heading, file, f"{name}: image, ground truth and {', '.join(predictions)} side by side.", caption)


def _joined(values) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _file_name(title: str) -> str:
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in title)
    return plain if plain == title else f"{plain}_{zlib.crc32(title.encode()):08x}"  # or two could have one name
