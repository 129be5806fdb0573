"""The benchmark as one call."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nnunetv2_dsvm.benchmark import process_suites, suites
from nnunetv2_dsvm.benchmark.measuring.environment import environment
from nnunetv2_dsvm.benchmark.result import BenchmarkResult
from nnunetv2_dsvm.benchmark.runner import Runner
from nnunetv2_dsvm.benchmark.settings import Settings
from nnunetv2_dsvm.benchmark.suite import BY_DEFAULT, SUITES
from nnunetv2_dsvm.errors import UserError

if TYPE_CHECKING:  # it imports nnU-Net, which the other suites do without
    from nnunetv2_dsvm.benchmark.planned_memory import PlannedTraining

# In the order in which they run; "memory" is about trainings and comes behind them.
_RESULTS_OF: dict[str, Callable[[Runner], Iterator[BenchmarkResult]]] = {
    "scan": suites.scan,
    "core": suites.core,
    "network": suites.network,
    "distillation": suites.distillation,
    "family": suites.family,
    "scaling": process_suites.scaling,
    "sharing": process_suites.sharing,
}


@dataclass(frozen=True)
class BenchmarkResults:
    """All that a run found.

    Attributes:
        environment: hardware and versions that a speed depends on.
        settings: what was asked for.
        results: the lines of all suites but "memory".
        planned_memory: those of "memory".
    """

    environment: dict[str, Any]
    settings: Settings
    results: list[BenchmarkResult]
    planned_memory: "list[PlannedTraining]"

    @property
    def failed(self) -> list[str]:
        """What gave a wrong result or an error, each once."""
        return list(dict.fromkeys(f"{r.implementation} ({r.suite})" for r in self.results if r.failed))

    @property
    def took_more_than_planned(self) -> bool:
        return any(training.took_more for training in self.planned_memory)


def _silent(_: object) -> None:
    pass


def check_suites(chosen: Sequence[str], device: str) -> None:
    """Raises UserError where there is no such suite, or the device cannot run one of them."""
    unknown = sorted(set(chosen) - set(SUITES))
    if unknown:
        raise UserError(f"unknown suite {', '.join(unknown)}: choose any of {', '.join(SUITES)}, separated by commas")
    if "memory" in chosen and device != "cuda":
        raise UserError(f"the suite memory needs a CUDA GPU, got --device {device}")


def benchmark(
    settings: Settings,
    chosen: Sequence[str] = BY_DEFAULT,
    *,
    progress: Callable[[str], None] = _silent,
    show_row: Callable[[BenchmarkResult], None] = _silent,
    show: Callable[[list[BenchmarkResult]], None] = _silent,
    show_memory: "Callable[[list[PlannedTraining]], None]" = _silent,
    keep: Callable[[BenchmarkResults], None] = _silent,
) -> BenchmarkResults:
    """Check and measure; a wrong result gets no speed.

    Args:
        settings: what is measured, see `choose_settings`.
        chosen: names of `SUITES`.
        progress: told what begins.
        show_row: given each result of a suite but "memory" as it comes.
        show: given the results of each suite but "memory" when it has ended, also by an exception as Ctrl-C's.
        show_memory: likewise those of "memory".
        keep: given all that was found so far, after each result, for whoever does not want to lose it.

    Raises:
        UserError: see `check_suites`.
    """
    check_suites(chosen, settings.device)
    where = environment(torch.device(settings.device))
    runner = Runner(settings, progress)
    found = BenchmarkResults(where, settings, [], [])
    for suite, results_of in _RESULTS_OF.items():
        if suite in chosen:
            with _shown(show) as of_suite:
                for result in results_of(runner):
                    of_suite.append(result)
                    found.results.append(result)
                    show_row(result)
                    keep(found)
    if "memory" in chosen:
        from nnunetv2_dsvm.benchmark.planned_memory import measure_planned

        with _shown(show_memory) as trainings:
            for training in measure_planned(progress):
                trainings.append(training)
                found.planned_memory.append(training)
                keep(found)
    return found


@contextmanager
def _shown(show: Callable[[list[Any]], None]) -> Iterator[list[Any]]:
    """A list that is shown at the end, however the block ends, if anything has come into it."""
    lines: list[Any] = []
    try:
        yield lines
    finally:
        if lines:
            show(lines)
