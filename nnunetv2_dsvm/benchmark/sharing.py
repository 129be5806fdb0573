"""A network in two processes at once on one CPU, as a prediction beside a training, against one process alone."""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nnunetv2_dsvm.benchmark.cases.network import NetworkCase
from nnunetv2_dsvm.benchmark.measuring.isolated import run_isolated
from nnunetv2_dsvm.benchmark.measuring.timing import ONCE, Effort, Timing, time_inference, time_training

TOGETHER = 2
_SETTLING_S = 2.0  # until the processes have noticed each other (`waiting_threads`)
_LONGEST_WAIT = 300.0  # seconds for the other process to be ready: it compiles nothing, it only starts


@dataclass(frozen=True)
class SharingTimes:
    """Of each of the processes that ran together, the slower one."""

    inference: Timing
    forward: Timing
    training: Timing


def measure_sharing(case: NetworkCase, processes: int, effort: Effort) -> SharingTimes:
    """Times `processes` processes that run the case at the same time, each with all of torch's threads.

    `GOMP_SPINCOUNT` is not handed on to them: they wait for threads as without it.

    Raises:
        RuntimeError: a process failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        running = [
            pool.submit(run_isolated, _time, case, effort, Path(folder), processes, environment=environment)
            for _ in range(processes)
        ]
        times = [process.result() for process in running]
    return SharingTimes(*(max(timings, key=lambda t: t.median) for timings in zip(*times, strict=True)))


def _time(case: NetworkCase, effort: Effort, folder: Path, processes: int) -> tuple[Timing, Timing, Timing]:
    device = torch.device(case.device)
    work = {"": case.build()}
    time_inference(work, device, ONCE)
    _wait_for_all(folder, "started", processes)
    for _ in _until(replace(effort, seconds=_SETTLING_S if effort.seconds else 0.0)):
        time_inference(work, device, ONCE)
    _wait_for_all(folder, "inference", processes)
    inference = [time_inference(work, device, ONCE)[""].median for _ in _until(effort)]
    time_training(work, device, ONCE)
    _wait_for_all(folder, "training", processes)
    training = [time_training(work, device, ONCE)[""] for _ in _until(effort)]
    return (
        Timing.of(inference),
        Timing.of([forward.median for forward, _ in training]),
        Timing.of([step.median for _, step in training]),
    )


def _until(effort: Effort) -> Iterator[int]:
    """As many turns as begin within the effort's seconds, however slow: so the processes end together."""
    end = time.monotonic() + effort.seconds
    turns = 0
    while time.monotonic() < end or turns < effort.least:
        turns += 1
        yield turns


def _wait_for_all(folder: Path, phase: str, processes: int) -> None:
    """Returns when all processes have come here."""
    (folder / f"{phase}_{os.getpid()}").touch()
    end = time.monotonic() + _LONGEST_WAIT
    while len(list(folder.glob(f"{phase}_*"))) < processes:
        if time.monotonic() > end:
            raise RuntimeError(f"another of the {processes} processes was not ready after {_LONGEST_WAIT:.0f} s")
        time.sleep(0.01)
