"""Make the report: read everything, draw in a folder of its own, and move the finished files into their place."""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import beside, put_in_place
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.case_figures import case_figures
from nnunetv2_dsvm.reporting.curves import Curves, limits, read_curves, write_curves
from nnunetv2_dsvm.reporting.figure import Figure, picture_name
from nnunetv2_dsvm.reporting.html import PACKAGE, Column, render
from nnunetv2_dsvm.reporting.papers import read_papers_numbers
from nnunetv2_dsvm.reporting.results import MEAN, Results, check_same_tolerance, read_results
from nnunetv2_dsvm.reporting.tables import shown_spread
from nnunetv2_dsvm.reporting.training_effort import shown_duration

REPORT = "report.html"


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
    if all(result.tolerance_mm is not None for result in results):  # else NSD is not compared
        check_same_tolerance({title: result.tolerance_mm for title, result in zip(titles, results, strict=True)})
    curves = [read_curves(model, folds) for model in models]
    drawing = ExitStack()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = drawing.enter_context(beside(folder / REPORT))
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
        cases = case_figures(partial, models, titles, results, say)
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
        drawing.close()


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
        put_in_place(partial / name, folder / name)
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
    parameters, timed = curves.parameters, len(curves.epoch_seconds)
    seconds = [of_epoch for of_fold in curves.epoch_seconds.values() for of_epoch in of_fold]
    total = shown_duration(sum(seconds)) + f" ({timed} folds)" * (len(folds) > 1)
    return {
        "trainer": model.trainer,
        "plans": model.plans_name,
        "configuration": model.configuration,
        "folds": ", ".join(folds),
        "parameters": "–" if parameters is None else f"{parameters:,}",
        "epochs": _joined(epochs) or "–",
        "time per epoch (median)": shown_duration(median(seconds)) if seconds else "–",
        "training time": total if seconds else "–",
        "validation cases": str(len(results.cases)),
        "Dice" if results.has_one_class else "mean Dice": shown_spread(results.summary[MEAN]["Dice"], "Dice"),
    }


def _curves_figure(folder: Path, title: str, curves: Curves, ranges: dict[str, tuple[float, float]]) -> Figure:
    if not curves.panels:
        return Figure(title, None, "", "No training curves: the checkpoints hold no logged values.")
    file = folder / picture_name("curves", title)
    write_curves(file, curves, ranges)
    names = [panel.title for panel in curves.panels]
    caption = "One line per fold. Pseudo Dice is nnU-Net's estimate from validation patches while it trains."
    if any(name.startswith("L_p") for name in names):
        caption += " L_proj and L_prog are the two distillation terms without their weights."
    return Figure(title, file, f"Training curves of {title} over the epochs: {', '.join(names)}.", caption)


def _joined(values) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))
