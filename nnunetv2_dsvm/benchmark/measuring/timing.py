"""How long a call takes: CUDA events on a GPU, the wall clock elsewhere; medians of repeated calls."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nnunetv2_dsvm.benchmark.cases.workload import Workload


@dataclass(frozen=True)
class Timing:
    """Median and spread, in seconds, of `repeats` calls."""

    median: float
    fastest: float
    slowest: float
    repeats: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


@dataclass(frozen=True)
class Effort:
    """How often a call is repeated: `warm_up` untimed calls, then for about `seconds`, between `least` and `most`.

    A call that takes longer than `long_call` seconds is timed once: nobody waits minutes for a median of the reference
    loop.
    """

    warm_up: int
    least: int
    most: int
    seconds: float
    long_call: float


ONCE = Effort(warm_up=0, least=1, most=1, seconds=0.0, long_call=0.0)


class Clock:
    """Marks on a device's time line, and the seconds between two of them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        if self.device.type == "cuda":
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        return end - start


def time_inference(workloads: Mapping[str, Workload], device: torch.device, effort: Effort) -> dict[str, Timing]:
    """Time of each workload's `infer`. The workloads take turns, so that a drift of the clock hits all alike."""
    clock = Clock(device)

    def call(workload: Workload) -> list[Any]:
        marks = [clock.mark()]
        workload.infer()
        return [*marks, clock.mark()]

    for workload in workloads.values():
        workload.set_training(False)
    samples = _take_turns(workloads, call, clock, effort)
    return {name: Timing.of([interval for (interval,) in intervals]) for name, intervals in samples.items()}


def time_training(
    workloads: Mapping[str, Workload], device: torch.device, effort: Effort
) -> dict[str, tuple[Timing, Timing]]:
    """Time of each workload's forward while autograd records, and of forward + backward. They take turns."""
    clock = Clock(device)

    def call(workload: Workload) -> list[Any]:
        marks = [clock.mark()]
        output = workload.forward()
        marks.append(clock.mark())
        workload.backward(output)
        return [*marks, clock.mark()]

    for workload in workloads.values():
        workload.set_training(True)
    samples = _take_turns(workloads, call, clock, effort)
    return {
        name: (Timing.of([first for first, _ in intervals]), Timing.of([sum(both) for both in intervals]))
        for name, intervals in samples.items()
    }


def _take_turns(
    workloads: Mapping[str, Workload], call: Callable[[Workload], list[Any]], clock: Clock, effort: Effort
) -> dict[str, list[list[float]]]:
    """The seconds between the marks of each call, per repetition. CUDA is read at the end: it must not wait for us."""

    def intervals(marks: list[Any]) -> list[float]:
        return [clock.seconds(a, b) for a, b in itertools.pairwise(marks)]

    repeats = effort.least
    for _ in range(effort.warm_up):
        one_turn = sum(sum(intervals(call(workload))) for workload in workloads.values())
        repeats = min(effort.most, max(effort.least, int(effort.seconds / max(one_turn, 1e-9))))
    marks: dict[str, list[list[Any]]] = {name: [] for name in workloads}
    for _ in range(repeats):
        for name, workload in workloads.items():
            marks[name].append(call(workload))
    return {name: [intervals(m) for m in per_call] for name, per_call in marks.items()}
