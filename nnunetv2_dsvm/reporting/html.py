"""The report as one HTML file: what the template is given, from results and pictures."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nnunetv2_dsvm.diagnostics.versions import PACKAGE, installed_version
from nnunetv2_dsvm.reporting.papers import PROTOCOLS, PapersNumbers
from nnunetv2_dsvm.reporting.results import MEAN, Results, Spread
from nnunetv2_dsvm.version import __version__

TEMPLATE = "report.html.j2"
METRIC_TITLES = {"HD95_mm": "HD95 (mm)", "MSD_mm": "mean surface distance (mm)", "HD95_voxels": "HD95 (voxels)"}
LOWER_IS_BETTER = ("HD95_mm", "MSD_mm", "HD95_voxels")
UNDEFINED = "–"
METRICS_BESIDE_EACH_OTHER = 6


@dataclass(frozen=True)
class Figure:
    """A picture with its caption; without a file, the caption says why there is none."""

    heading: str
    file: Path | None
    alternative: str
    caption: str


@dataclass(frozen=True)
class Column:
    """One model of the report."""

    title: str
    facts: Mapping[str, str]
    results: Results
    curves: Figure
    notes: Sequence[str] = field(default=())
    papers: Mapping[str, PapersNumbers] = field(default_factory=dict)  # by protocol


def render(*, title: str, subtitle: str, columns: Sequence[Column], cases: Sequence[Figure]) -> str:
    """The HTML text, its pictures inside.

    Args:
        title: the dataset.
        subtitle: what the models were asked for.
        columns: one per model, all with the same facts.
        cases: the pictures of cases.
    """
    environment = Environment(
        loader=PackageLoader("nnunetv2_dsvm.reporting", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["data_url"] = _data_url
    versions = {"nnunetv2_dsvm": __version__} | {
        name: installed_version(name) for name in ("nnunetv2", "torch", "matplotlib", "jinja2")
    }
    titles = [column.title for column in columns]
    papers = []
    for protocol, description in PROTOCOLS.items():
        numbers = [column.papers[protocol] for column in columns if protocol in column.papers]
        if len(numbers) == len(columns):
            tables, notes = _tables(titles, numbers), _notes(titles, numbers)
            papers.append({"name": protocol, "description": description, "tables": tables, "notes": notes})
    results = [column.results for column in columns]
    return environment.get_template(TEMPLATE).render(
        title=title,
        subtitle=subtitle,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        generator=PACKAGE,
        versions=", ".join(f"{name} {version}" for name, version in versions.items() if version),
        columns=columns,
        tables=_tables(titles, results),
        notes=_notes(titles, results),
        papers=papers,
        all_cases=_all_cases(columns),
        cases=cases,
    )


def shown(value: float | None, metric: str = "Dice") -> str:
    """A metric's value: distances with two decimals, anything else with three."""
    if value is None:
        return UNDEFINED
    return f"{value:.2f}" if metric in LOWER_IS_BETTER else f"{value:.3f}"


def shown_spread(spread: Spread, metric: str) -> str:
    """`mean ± standard deviation`."""
    if spread.mean is None or spread.std is None:
        return shown(spread.mean, metric)
    return f"{shown(spread.mean, metric)} ± {shown(spread.std, metric)}"


def _tables(titles: Sequence[str], models: Sequence[Results | PapersNumbers]) -> list[dict[str, Any]]:
    """One model: tables of classes by metrics, no wider than the page. Several: classes by models for each metric."""
    metrics = [m for m in models[0].metrics if all(m in model.metrics for model in models)]
    if len(models) == 1:
        parts = [metrics[i : i + METRICS_BESIDE_EACH_OTHER] for i in range(0, len(metrics), METRICS_BESIDE_EACH_OTHER)]
        tables = [("", [_metric_title(m) for m in part], [(models[0], m) for m in part]) for part in parts]
    else:
        tables = [(_metric_title(m), titles, [(model, m) for model in models]) for m in metrics]
    names = [*(name for name in models[0].summary if name != MEAN), MEAN]
    return [
        {"caption": caption, "heads": heads, "rows": [_row(name, cells) for name in names]}
        for caption, heads, cells in tables
    ]


def _notes(titles: Sequence[str], models: Sequence[Results | PapersNumbers]) -> list[str]:
    """Each note once, after the names of the models that it is about if these are not all."""
    of_models: dict[str, list[str]] = {}
    for title, model in zip(titles, models, strict=True):
        for note in model.notes:
            of_models.setdefault(note, []).append(title)
    return [note if len(of) == len(titles) else f"{', '.join(of)}: {note}" for note, of in of_models.items()]


def _row(name: str, cells: Sequence[tuple[Results | PapersNumbers, str]]) -> dict[str, Any]:
    values = []
    for results, metric in cells:
        spread = results.summary.get(name, {}).get(metric, Spread(None, None, 0))
        some = 0 < spread.n < results.number_of_cases
        values.append({"text": shown_spread(spread, metric), "n": spread.n if some else None})
    return {"name": name.replace("_", " "), "is_mean": name == MEAN, "values": values}


def _all_cases(columns: Sequence[Column]) -> list[tuple[str, str, list[str]]]:
    """Name, fold and mean Dice per model of every case; the worst of the first model first."""
    by_name = [{case.name: case for case in column.results.cases} for column in columns]
    names = dict.fromkeys(name for of_model in by_name for name in of_model)

    def badness(name: str) -> tuple[bool, float]:
        dice = by_name[0][name].mean_dice if name in by_name[0] else None
        return dice is None, dice or 0.0

    rows = []
    for name in sorted(names, key=badness):
        found = [of_model.get(name) for of_model in by_name]
        fold = next((case.fold for case in found if case is not None and case.fold is not None), UNDEFINED)
        rows.append((name, fold, [shown(case.mean_dice if case is not None else None) for case in found]))
    return rows


def _metric_title(metric: str) -> str:
    return f"{METRIC_TITLES.get(metric, metric)} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def _data_url(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")
