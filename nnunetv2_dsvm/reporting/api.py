"""Make the report, as `nnUNetv2_dsvm report` does: read everything, draw beside the place, move the finished files."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from nnunetv2_dsvm.errors import UserError, check_several
from nnunetv2_dsvm.files.atomic_write import beside, put_in_place
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.files.places_to_write import check_folder_place
from nnunetv2_dsvm.nnunet.folders import check_folder_variables
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel, choose_folds, find_models
from nnunetv2_dsvm.reporting.curves import Curves, limits, read_curves, shown_duration
from nnunetv2_dsvm.reporting.curves_picture import write_curves
from nnunetv2_dsvm.reporting.html import PACKAGE, ReportedModel, TextTable, render
from nnunetv2_dsvm.reporting.illustrations import Illustration, case_illustrations, picture_name
from nnunetv2_dsvm.reporting.papers import read_papers_numbers
from nnunetv2_dsvm.reporting.results import MEAN, Results, check_same_tolerance, read_results
from nnunetv2_dsvm.reporting.tables import shown_statistic

REPORT = "report.html"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        html: the report, its pictures inside.
        pictures: the same beside it, one file each.
        results: the validation's metrics, by the title of the model's column; an undefined value is NaN.
    """

    html: Path
    pictures: Sequence[Path]
    results: Mapping[str, Results]


def report(
    models: Sequence[Path | str],
    output: Path | str,
    *,
    folds: Sequence[str | int] | None = None,
    tables: Sequence[TextTable] = (),
) -> Report:
    """Writes `report.html` on trained models, and its pictures `report_*.png` beside it.

    An earlier report in the folder is replaced, nothing else: which pictures are its own stands in its HTML. Images and
    ground truth are looked up in nnU-Net's folders; a case whose image is not there has no picture. Checkpoints are
    read without running their pickles. What is being done is logged.

    Args:
        models: folders TRAINER__PLANS__CONFIGURATION of one dataset, in the order of their columns.
        output: the folder, created if it is missing.
        folds: numbers, or `all`; by default those that every model has.
        tables: of a whole cross-validation, for a section of their own.

    Raises:
        UserError: results are missing or do not compare, or the folder cannot be written or holds somebody else's
            `report.html`; then nothing in it was changed.

    Examples:
        >>> from nnunetv2_dsvm import report
        >>> written = report(["nnUNetTrainerDSVM__nnUNetPlans__2d"], "out", folds=["0"])
        >>> written.html.name, len(written.pictures)
        ('report.html', 2)
        >>> list(written.results)
        ['nnUNetTrainerDSVM']
    """
    folder = Path(output)
    check_several("models", models)
    check_folder_variables()
    check_folder_place(folder, "choose another folder with -o", (REPORT,))
    found = find_models([Path(model) for model in models], None, (), "", "")
    return _written(found, choose_folds(found, folds), folder, tables)


def _written(models: Sequence[TrainedModel], folds: Sequence[str], folder: Path, tables: Sequence[TextTable]) -> Report:
    titles = _titles(models)
    other = [title for title, model in zip(titles, models, strict=True) if model.labels != models[0].labels]
    if other:
        raise UserError(f"{', '.join(other)} has other labels than {titles[0]}: make a report of each")
    earlier = _pictures_of_earlier_report(folder)
    _LOG.info("reading metrics and checkpoints")
    results = {title: read_results(model, folds) for title, model in zip(titles, models, strict=True)}
    tolerances = {title: of.tolerance_mm for title, of in results.items() if of.tolerance_mm is not None}
    if len(tolerances) == len(results):  # else NSD is not compared
        check_same_tolerance(tolerances)
    curves = [read_curves(model, folds) for model in models]
    drawing = ExitStack()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = drawing.enter_context(beside(folder / REPORT))
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error}. Choose another folder with -o") from error
    try:
        text = render(
            title=models[0].dataset,
            subtitle=f"{', '.join(titles)} · plans {_joined(m.plans_name for m in models)} · "
            f"{_joined(m.configuration for m in models)} · fold{'s' * (len(folds) > 1)} {', '.join(folds)}",
            columns=_columns(partial, models, folds, curves, results),
            cases=case_illustrations(partial, models, titles, list(results.values())),
            tables=tables,
        )
        (partial / REPORT).write_text(text, encoding="utf-8")
        html, *pictures = _move_into_place(partial, folder, earlier)
    except OSError as error:
        raise UserError(f"the report could not be written into {folder}: {error}") from error
    finally:
        drawing.close()
    return Report(html, pictures, results)


def _columns(
    folder: Path,
    models: Sequence[TrainedModel],
    folds: Sequence[str],
    curves: Sequence[Curves],
    results: Mapping[str, Results],
) -> list[ReportedModel]:
    """Each model's column, its picture of curves drawn into `folder`."""
    ranges, first = limits(curves), next(iter(results))
    columns = []
    for model, of_model, (title, result) in zip(models, curves, results.items(), strict=True):
        _LOG.info("drawing the training curves of %s", title)
        picture = _picture_of_curves(folder, title, of_model, ranges)
        notes = list(of_model.notes)
        if result.per_case.keys() != results[first].per_case.keys():
            notes.append(f"Validated on other cases than {first}: the numbers do not compare.")
        if "all" in folds:
            notes.append("Fold all is validated on the cases it was trained on.")
        facts, papers = _facts(model, folds, of_model, result), read_papers_numbers(model, folds)
        columns.append(ReportedModel(title, facts, result, picture, notes, papers))
    return columns


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
        "Dice" if results.has_one_class else "mean Dice": shown_statistic(results.summary[MEAN]["Dice"], "Dice"),
    }


def _picture_of_curves(
    folder: Path, title: str, curves: Curves, ranges: Mapping[str, tuple[float, float]]
) -> Illustration:
    if not curves.panels:
        return Illustration(title, None, "", "No training curves: the checkpoints hold no logged values.")
    file = folder / picture_name("curves", title)
    write_curves(file, curves, ranges)
    names = [panel.title for panel in curves.panels]
    caption = "One line per fold. Pseudo Dice is nnU-Net's estimate from validation patches while it trains."
    if any(name.startswith("L_p") for name in names):
        caption += " L_proj and L_prog are the two distillation terms without their weights."
    return Illustration(title, file, f"Training curves of {title} over the epochs: {', '.join(names)}.", caption)


def _joined(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))
