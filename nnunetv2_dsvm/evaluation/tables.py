"""Metrics as JSON, as CSV and as a table to read."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.case_result import CaseResult
from nnunetv2_dsvm.evaluation.protocols import Protocol
from nnunetv2_dsvm.evaluation.summary import OVER_LABELS, Statistic, Summary, repeats_its_only_label
from nnunetv2_dsvm.files.atomic_write import beside, put_in_place
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.text import aligned
from nnunetv2_dsvm.host.versions import PACKAGE, installed_version
from nnunetv2_dsvm.nnunet.labels import Labels
from nnunetv2_dsvm.version import __version__

_RENAMED = {"MSD_mm": "ASSD_mm"}  # of 0.1.0, and now


def metrics_json(
    results: Sequence[CaseResult], summary: Summary, labels: Labels, protocol: Protocol, tolerance_mm: float
) -> str:
    """`metrics_<protocol>.json`. Undefined values are null."""
    content = {
        "protocol": protocol.name,
        "labels": labels.as_in_json(),
        "metrics": protocol.metrics,
        "definitions": protocol.definitions,
        **({"tolerance_mm": tolerance_mm} if "NSD" in protocol.metrics else {}),
        "rule_for_empty_masks": protocol.rule_for_empty_masks,
        "resampled_onto_the_reference": resampled_cases(results),
        "summary": {
            label: {m: {"mean": number(s.mean), "std": number(s.std), "n": s.n} for m, s in of_label.items()}
            for label, of_label in summary.items()
        },
        "per_case": [
            {
                "case": result.case.name,
                "reference": str(result.case.reference),
                "prediction": str(result.case.prediction),
                "values": {
                    label: {metric: number(value) for metric, value in of_label.items()}
                    for label, of_label in result.values.items()
                },
            }
            for result in results
        ],
        "versions": {PACKAGE: __version__, **{n: installed_version(n) for n in ("nnunetv2", "numpy", "scipy")}},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_metrics(file: Path, advice: str) -> dict[str, Any]:
    """What `metrics_json` wrote, with the metrics' names of this version: 0.1.0 called the ASSD MSD.

    Args:
        file: `metrics_<protocol>.json`.
        advice: goes on after what is wrong with the file.

    Raises:
        UserError: there is no such file, or it holds no JSON.
        KeyError, TypeError, AttributeError: it is of another form.
    """
    content = read_json_object(file, advice)
    content["metrics"] = [_RENAMED.get(metric, metric) for metric in content["metrics"]]
    for by_label in (content["summary"], *(case["values"] for case in content["per_case"])):
        for label, values in by_label.items():
            by_label[label] = {_RENAMED.get(metric, metric): value for metric, value in values.items()}
    rule = content["rule_for_empty_masks"]
    content["rule_for_empty_masks"] = rule.replace("HD95 and MSD are", "HD95 and ASSD are")
    return content


def resampled_cases(results: Sequence[CaseResult]) -> list[str]:
    """The cases whose prediction lay on another grid than its reference."""
    return [result.case.name for result in results if result.resampled]


def metrics_csv(results: Sequence[CaseResult], summary: Summary, protocol: Protocol) -> str:
    """`metrics_<protocol>.csv`: a row per case and label, then the rows `mean`, `std` and `n`. Undefined: empty."""
    summary = to_read(summary)
    rows: list[list[Any]] = [["case", "label", *protocol.metrics]]
    for result in results:
        rows += [[result.case.name, label, *map(number, of.values())] for label, of in result.values.items()]
    for field in Statistic._fields:
        rows += [[field, label, *(number(getattr(s, field)) for s in of.values())] for label, of in summary.items()]
    return as_csv(rows)


def summary_table(summary: Summary, protocol: Protocol) -> str:
    """Mean ± standard deviation, a row per label; `[n]` behind a value that is not defined for every case."""
    summary = to_read(summary)
    most = max(s.n for of_label in summary.values() for s in of_label.values())
    rows = [["label", *protocol.metrics]]
    for label, of_label in summary.items():
        rows.append([label, *(_shown(s, most) for s in of_label.values())])
    return aligned(rows)


def to_read(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Without the mean over the labels where there is but one label."""
    return {label: of for label, of in summary.items() if label != OVER_LABELS or not repeats_its_only_label(summary)}


def as_csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def number(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def write_all(contents: Mapping[Path, str]) -> None:
    """Write every file beside its place first, and rename when all are written.

    Raises:
        UserError: one of them cannot be written; older files are as they were.
    """
    try:
        with ExitStack() as folders:
            written = {}
            for path, text in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                written[path] = folders.enter_context(beside(path)) / path.name
                written[path].write_text(text, encoding="utf-8")
            for path, file in written.items():
                put_in_place(file, path)
    except OSError as error:
        raise UserError(f"cannot write the metrics: {error}; choose another folder with -o") from error


def _shown(s: Statistic, most: int) -> str:
    if not s.n:
        return "–"
    text = f"{s.mean:.4f}" if math.isnan(s.std) else f"{s.mean:.4f} ± {s.std:.4f}"
    return text if s.n == most else f"{text} [{s.n}]"
