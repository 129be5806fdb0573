"""Measure many cases in several processes; whatever is wrong with any of them is said at once."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from tqdm import tqdm

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.case_result import CaseResult, EvaluatedCase, measure_case
from nnunetv2_dsvm.evaluation.prediction_set import PredictionSet
from nnunetv2_dsvm.evaluation.protocols import PROTOCOLS
from nnunetv2_dsvm.evaluation.segmentations import read_pair
from nnunetv2_dsvm.nnunet.labels import Labels

Outcome = tuple[CaseResult | None, list[str]]
Task = tuple[EvaluatedCase, Labels, type, str, float, bool, bool]


def default_processes() -> int:
    """As many as nnU-Net takes, at most the CPU's cores."""
    from nnunetv2.configuration import default_num_processes

    return min(default_num_processes, os.cpu_count() or 1)


def measure_sets(
    sets: Sequence[PredictionSet],
    *,
    protocol: str,
    tolerance_mm: float,
    processes: int,
    problems: Sequence[str] = (),
    resample: bool = False,
    show_progress: bool = False,
) -> list[list[CaseResult]]:
    """Measure all cases.

    Args:
        protocol: a name in `PROTOCOLS`.
        processes: at most as many as there are cases are started; 1 starts none.
        problems: what is known to be wrong already. The files are then only checked.
        resample: bring predictions on other grids onto their references', instead of refusing them.
        show_progress: a bar on standard error.

    Returns:
        For each set, its cases' results in their order.

    Raises:
        UserError: names every problem of every case.
    """
    check_only = bool(problems)
    settings = protocol, tolerance_mm, check_only, resample
    tasks = [(case, s.labels, s.reader_class, *settings) for s in sets for case in s.cases]
    outcomes = _in_processes(tasks, min(processes, len(tasks)), show_progress)
    # References are read once per model: their problems once are enough.
    found = list(dict.fromkeys([*problems, *(problem for _, of_case in outcomes for problem in of_case)]))
    if found:
        count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
        raise UserError("\n  ".join([f"{count}, nothing was written:", *found]))
    results = iter([result for result, _ in outcomes if result is not None])  # each one: none has a problem
    return [[next(results) for _ in s.cases] for s in sets]


def _in_processes(tasks: Sequence[Task], processes: int, show_progress: bool) -> list[Outcome]:
    bar = tqdm(total=len(tasks), desc="cases", unit="case", disable=not show_progress)
    with bar:
        if processes <= 1:
            outcomes = []
            for task in tasks:
                outcomes.append(_measure(task))
                bar.update()
            return outcomes
        # Spawned as nnU-Net's workers are: a fork of a process with threads may hang.
        executor = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
        try:
            futures = [executor.submit(_measure, task) for task in tasks]
            for _ in as_completed(futures):
                bar.update()
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise UserError("a worker process died, perhaps for lack of memory; use fewer with -np") from error
        finally:
            executor.shutdown(cancel_futures=True)


def _measure(task: Task) -> Outcome:
    case, labels, reader_class, protocol, tolerance_mm, check_only, resample = task
    pair, problems = read_pair(case.reference, case.prediction, reader_class, labels, resample=resample)
    if pair is None or check_only:
        return None, problems
    try:
        return measure_case(case, pair, labels, PROTOCOLS[protocol], tolerance_mm), []
    except Exception as error:
        return None, [f"{case.prediction} could not be measured: {type(error).__name__}: {error}"]
