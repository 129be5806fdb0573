"""Time and memory of one case."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from nnunetv2_dsvm import cuda_graphs
from nnunetv2_dsvm.benchmark.cases.workload import Workload
from nnunetv2_dsvm.benchmark.measuring.isolated import run_isolated
from nnunetv2_dsvm.benchmark.measuring.memory import PeakMemory, kept_for_backward
from nnunetv2_dsvm.benchmark.measuring.timing import ONCE, Effort, Timing, time_inference, time_training
from nnunetv2_dsvm.host.waiting_threads import sleep_when_crowded

# On a GPU: the first calls choose kernels, compile them and allocate workspaces, and one records a CUDA graph; then the
# loss may do the same.
_CALLS_BEFORE = 2 * cuda_graphs.CALLS_BEFORE + 1


class MeasuredCase(Protocol):
    """A picklable description of what is measured."""

    @property
    def device(self) -> str:
        """cpu, cuda or mps."""
        ...

    @property
    def counts_weights(self) -> bool:
        """Whether memory counts from before the weights are made, or from just before the call."""
        ...

    @property
    def wants_kept(self) -> bool:
        """Whether to measure what is kept for backward."""
        ...

    def build(self) -> Workload: ...

    def tiny(self) -> "MeasuredCase":
        """The same work on the smallest shape; or on one that leaves less to be compiled."""
        ...


@dataclass(frozen=True)
class Measurement:
    """Seconds and bytes; None where a number was not measured.

    `inference` is forward without autograd, `forward` the training's forward, `training` forward + backward (for a
    network, the whole step).
    """

    inference: Timing | None
    forward: Timing
    training: Timing
    inference_bytes: int | None
    training_bytes: int | None
    kept_bytes: int | None = None


def _silent(_: str) -> None:
    pass


def measure(case: MeasuredCase, effort: Effort, phase: Callable[[str], None] = _silent) -> Measurement:
    """Measures a case: on a CPU in a fresh process (for the memory), elsewhere here.

    Args:
        case: what is measured.
        effort: how often.
        phase: told what begins, where it is measured here.

    Raises:
        RuntimeError: it ran out of memory, or the process failed.
    """
    if case.device == "cpu":
        return run_isolated(_measure, case, effort)
    return _measure(case, effort, phase)


def _measure(case: MeasuredCase, effort: Effort, phase: Callable[[str], None] = _silent) -> Measurement:
    device = torch.device(case.device)
    sleep_when_crowded()  # as the network does, for the cases without one
    memory = PeakMemory(device)
    phase("first calls, which compile kernels")
    _run_once(case.tiny().build(), device)
    gc.collect()
    memory.set_baseline()
    work = {"": case.build()}
    phase("inference")
    if device.type == "cuda":
        for _ in range(_CALLS_BEFORE):
            time_inference(work, device, ONCE)
    if not case.counts_weights:
        memory.set_baseline()
    memory.reset()
    inference = time_inference(work, device, ONCE)[""]
    inference_bytes = memory.read()
    if inference.median < effort.long_call:
        inference = time_inference(work, device, effort)[""]

    phase("training")
    if device.type == "cuda":
        for _ in range(_CALLS_BEFORE):
            time_training(work, device, ONCE)
    if not case.counts_weights:
        memory.set_baseline()
    memory.reset()
    forward, training = time_training(work, device, ONCE)[""]
    training_bytes = memory.read()
    if training.median < effort.long_call:
        forward, training = time_training(work, device, effort)[""]

    kept_bytes = kept_for_backward(work[""].forward, device, work[""].held) if case.wants_kept else None
    return Measurement(inference, forward, training, inference_bytes, training_bytes, kept_bytes)


def _run_once(workload: Workload, device: torch.device) -> None:
    """Loads libraries and starts threads, so that neither is taken for the case's own time or memory."""
    time_inference({"": workload}, device, ONCE)
    time_training({"": workload}, device, ONCE)
