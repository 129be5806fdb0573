"""Results as a table for people and as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from nnunetv2_dsvm.benchmark.measuring.timing import Timing
from nnunetv2_dsvm.benchmark.result import BenchmarkResult
from nnunetv2_dsvm.benchmark.run import BenchmarkResults
from nnunetv2_dsvm.benchmark.suite import SUITES
from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.planning.memory import GIGABYTE

if TYPE_CHECKING:  # it imports nnU-Net, which the other suites do without
    from nnunetv2_dsvm.benchmark.planned_memory import PlannedTraining

_COLUMNS = ("inference", "forward", "training")


def ratios(result: BenchmarkResult, yardstick: BenchmarkResult) -> dict[str, float]:
    """How many times faster than the yardstick, and which fraction of its memory, by what was measured."""
    ours, theirs = result.measurement, yardstick.measurement
    found = {}
    for name in _COLUMNS:
        if getattr(ours, name) and getattr(theirs, name):
            found[f"{name}_speedup"] = getattr(theirs, name).median / getattr(ours, name).median
    for name in ("inference_bytes", "training_bytes", "kept_bytes"):
        if getattr(ours, name) and getattr(theirs, name):
            found[f"{name}_fraction"] = getattr(ours, name) / getattr(theirs, name)
    return found


def _yardstick(results: Sequence[BenchmarkResult]) -> BenchmarkResult | None:
    measured = {r.implementation: r for r in results if r.measurement}
    return next((measured[name] for name in SUITES[results[0].suite].yardsticks if name in measured), None)


def as_json(found: BenchmarkResults) -> str:
    """Everything that was measured, in seconds and bytes."""
    rows = []
    for _, of_case in groupby(found.results, key=lambda r: (r.suite, r.case)):
        group = list(of_case)
        yardstick = _yardstick(group)
        for result in group:
            row = dataclasses.asdict(result)
            if result.measurement and yardstick:
                row["compared_with"] = yardstick.implementation
                row.update(ratios(result, yardstick))
            rows.append(row)
    written: dict[str, Any] = {
        "environment": found.environment,
        "settings": dataclasses.asdict(found.settings),
        "results": rows,
    }
    if found.planned_memory:
        written["planned_memory"] = [training.as_row() for training in found.planned_memory]
    return json.dumps(written, indent=2) + "\n"


def as_table(results: Sequence[BenchmarkResult]) -> str:
    """One block per case. Times are medians in ms ± half the distance from fastest to slowest; memory in MiB.

    Beside them × how many times faster than the yardstick, / which fraction of its memory; or what is needed beyond it.
    """
    lines: list[str] = []
    for suite, in_suite in groupby(results, key=lambda r: r.suite):
        lines += ["", SUITES[suite].title]
        for case, group in groupby(in_suite, key=lambda r: r.case):
            lines += ["", f"  {case}", *("    " + line for line in _block(list(group)))]
    return "\n".join(lines)


def as_line(result: BenchmarkResult) -> str:
    """One result by itself, for whoever waits for the table."""
    measured = result.measurement
    if measured is None:
        return f"{result.suite}: {result.case}, {_note(result)}"
    numbers = [f"{name} {_milliseconds(timing)} ms" for name in _COLUMNS if (timing := getattr(measured, name))]
    return f"{result.suite}: {result.case}, {result.implementation}: {', '.join(numbers)}"


def _note(result: BenchmarkResult) -> str:
    return f"{result.implementation}: {'REFUSED' if result.failed else 'not measured'}: {result.note}"


def planned_memory_table(trainings: "Sequence[PlannedTraining]") -> str:
    """The trainings of the suite memory in Markdown, GB of 10^9 bytes."""
    columns = "target", "preset", "patch", "batch", "precision", "channels, classes", "planned GB", "took GB", "ratio"
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for t in trainings:
        peak = t.peak
        took = peak if isinstance(peak, str) else f"{peak.total / GIGABYTE:.2f} | {peak.total / t.planned:.3f}"
        lines.append(
            f"| {t.target_gb} | {t.preset} | {by(t.patch_size)} | {t.batch_size} | {t.precision} "
            f"| {t.input_channels}, {t.num_classes} | {t.planned / GIGABYTE:.2f} | {took} |"
        )
    return "\n".join(lines)


def _block(results: Sequence[BenchmarkResult]) -> list[str]:
    yardstick = _yardstick(results)
    step = SUITES[results[0].suite].step
    header = ["", "inference ms", "", "training: forward ms", "", f"{step} ms", "", "peak: inference MiB", ""]
    header += [f"{step} MiB", ""]
    with_kept = any(r.measurement and r.measurement.kept_bytes is not None for r in results)
    header += ["kept MiB", ""] if with_kept else []
    rows = [[*header, "error"], *(_row(r, yardstick, with_kept) for r in results if r.measurement)]
    used = [i for i in range(len(rows[0])) if any(row[i] for row in rows)]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    table = ["  ".join(row[i].ljust(widths[i]) if i == 0 else row[i].rjust(widths[i]) for i in used) for row in rows]
    notes = [_note(r) for r in results if not r.measurement]
    return (table if len(rows) > 1 else []) + notes


def _row(result: BenchmarkResult, yardstick: BenchmarkResult | None, with_kept: bool) -> list[str]:
    compared = ratios(result, yardstick) if yardstick and yardstick is not result else {}

    def ratio(key: str, sign: str) -> str:
        if key not in compared:
            return ""
        if not SUITES[result.suite].in_percent:
            return f"{sign}{compared[key]:.3g}"
        needed = 1 / compared[key] if sign == "×" else compared[key]
        return f"{100 * (needed - 1):+.1f}%"

    row = [result.implementation]
    for name in _COLUMNS:
        row += [_milliseconds(getattr(result.measurement, name)), ratio(f"{name}_speedup", "×")]
    for name in ("inference_bytes", "training_bytes", *(["kept_bytes"] if with_kept else [])):
        row += [_mebibytes(getattr(result.measurement, name)), ratio(f"{name}_fraction", "/")]
    return [*row, f"{result.error:.0e}" if result.error is not None else ""]


def _milliseconds(t: Timing | None) -> str:
    if t is None:
        return "–"
    value = t.median * 1e3
    spread = f" ±{50 * (t.slowest - t.fastest) / t.median:.0f}%" if t.repeats > 1 else ""
    return (f"{value:.3g}" if value < 1000 else f"{value:.0f}") + spread


def _mebibytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:,.1f}"
