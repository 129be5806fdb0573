"""The report as one HTML file: what the template is given, from results and pictures."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nnunetv2_dsvm.evaluation.protocols import PROTOCOLS
from nnunetv2_dsvm.host.versions import PACKAGE, installed_version
from nnunetv2_dsvm.reporting.illustrations import Illustration
from nnunetv2_dsvm.reporting.papers import PAPERS, PapersNumbers
from nnunetv2_dsvm.reporting.results import Results
from nnunetv2_dsvm.reporting.tables import UNDEFINED, Numbers, comparison_of, shown, tables_of_one
from nnunetv2_dsvm.version import __version__

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class ReportedModel:
    """One model of the report."""

    title: str
    facts: Mapping[str, str]
    results: Results
    curves: Illustration
    notes: Sequence[str] = field(default=())
    papers: Mapping[str, PapersNumbers] = field(default_factory=dict)  # by protocol


@dataclass(frozen=True)
class TextTable:
    """A table of text: the first column names its rows, and the notes stand below."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def render(
    *,
    title: str,
    subtitle: str,
    columns: Sequence[ReportedModel],
    cases: Sequence[Illustration],
    tables: Sequence[TextTable] = (),
) -> str:
    """The HTML text, its pictures inside.

    Args:
        title: the dataset.
        subtitle: what the models were asked for.
        columns: one per model, all with the same facts.
        cases: the pictures of cases.
        tables: of the whole cross-validation that the models belong to.
    """
    environment = Environment(
        loader=PackageLoader("nnunetv2_dsvm.reporting", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["data_url"] = _data_url
    environment.filters["plain"] = lambda name: name.replace("_", " ")
    versions = {"nnunetv2_dsvm": __version__} | {
        name: installed_version(name) for name in ("nnunetv2", "torch", "matplotlib", "jinja2")
    }
    titles = [column.title for column in columns]
    papers = []
    for protocol, description in PAPERS.items():
        numbers = [column.papers[protocol] for column in columns if protocol in column.papers]
        if len(numbers) == len(columns):
            papers.append(
                {"name": protocol, "description": description, **_numbers(titles, numbers, PROTOCOLS[protocol].pooled)}
            )
    results = [column.results for column in columns]
    return environment.get_template(TEMPLATE).render(
        title=title,
        subtitle=subtitle,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        generator=PACKAGE,
        versions=", ".join(f"{name} {version}" for name, version in versions.items() if version),
        columns=columns,
        numbers=_numbers(titles, results),
        one_class=results[0].has_one_class,
        papers=papers,
        all_cases=_all_cases(columns),
        cases=cases,
        tables=tables,
    )


def _numbers(titles: Sequence[str], models: Sequence[Numbers], pooled: bool = False) -> dict[str, Any]:
    """The tables of one model, or the comparison of several, and the notes below."""
    found = {"tables": [], "comparison": None, "notes": _notes(titles, models)}
    if len(models) == 1:
        return found | {"tables": tables_of_one(models[0])}
    return found | {"comparison": comparison_of(titles, models, pooled)}


def _notes(titles: Sequence[str], models: Sequence[Numbers]) -> list[str]:
    """Each note once, after the names of the models that it is about if these are not all."""
    of_models: dict[str, list[str]] = {}
    for title, model in zip(titles, models, strict=True):
        for note in model.notes:
            of_models.setdefault(note, []).append(title)
    return [note if len(of) == len(titles) else f"{', '.join(of)}: {note}" for note, of in of_models.items()]


def _all_cases(columns: Sequence[ReportedModel]) -> list[tuple[str, str, list[str]]]:
    """Name, fold and mean Dice per model of every case; the worst of the first model first."""
    by_name = [{case.name: case for case in column.results.cases} for column in columns]
    names = dict.fromkeys(name for of_model in by_name for name in of_model)

    def badness(name: str) -> tuple[bool, float]:
        dice = by_name[0][name].mean_dice if name in by_name[0] else math.nan
        return math.isnan(dice), 0.0 if math.isnan(dice) else dice

    rows = []
    for name in sorted(names, key=badness):
        found = [of_model.get(name) for of_model in by_name]
        fold = next((case.fold for case in found if case is not None and case.fold is not None), UNDEFINED)
        rows.append((name, fold, [shown(case.mean_dice if case is not None else math.nan) for case in found]))
    return rows


def _data_url(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")
