"""The steps on this machine: trainings on its GPUs, so many at a time on each, and one other step beside them."""

import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from nnunetv2_dsvm.cluster.engines import child
from nnunetv2_dsvm.cluster.engines.step_run import ALONE, DONE, HELD
from nnunetv2_dsvm.cluster.finished import is_done, open_steps
from nnunetv2_dsvm.cluster.locks import Owner, owner_of
from nnunetv2_dsvm.cluster.preparation import usable_cpus
from nnunetv2_dsvm.cluster.run_folder import RunFolder
from nnunetv2_dsvm.cluster.steps import Step

LOOK_EVERY_S = 1.0  # at the children; at locks of others every `RETRY_S`
RETRY_S = 10.0
PROGRESS_EVERY_S = 60.0


class Watcher(Protocol):
    """Who is told what happens."""

    def started(self, step: Step, gpu: str | None) -> None:
        """A step has begun, on a GPU where it needs one."""

    def waits(self, step: Step, owner: Owner) -> None:
        """A step that could begin is in the hands of somebody else."""

    def ended(self, step: Step, status: int) -> None:
        """A step has ended, with the exit status of `step_run`."""

    def running(self) -> None:
        """Some time has passed, and steps are running."""


class LocalQueue:
    """Runs what is not done, each step when those before it have ended.

    Args:
        run: whose lock the caller holds.
        gpus: numbers or UUIDs, for CUDA_VISIBLE_DEVICES; on a CPU names of places for a training, which mean nothing.
        per_gpu: trainings at a time on each.
        watcher: told about every step.
        until: of `time.monotonic`, when whatever is still running is interrupted.
        fits: whether a step is still to be begun, asked when there is a place for it; one that is not is left alone.
    """

    def __init__(
        self,
        run: RunFolder,
        gpus: Sequence[str],
        per_gpu: int,
        watcher: Watcher,
        *,
        until: float = math.inf,
        fits: Callable[[Step], bool] = lambda step: True,
    ) -> None:
        self._run, self._per_gpu, self._watcher, self._until, self._fits = run, per_gpu, watcher, until, fits
        self._on_gpu = run.request.device == "cuda"
        self._free = [gpu for _ in range(per_gpu) for gpu in gpus]
        self._places = len(self._free)
        self._host_is_free = True
        self._running: dict[str, tuple[subprocess.Popen[bytes], str | None]] = {}
        self._waiting = open_steps(run)
        self._done = run.steps.keys() - {step.name for step in self._waiting}
        self._over = set(self._done)  # ended, or never to be begun
        self._retry: dict[str, float] = {}  # steps that somebody else was at, and when to try again

    def work(self) -> None:
        """Until nothing is left that could be done, or the time is over. However it ends, no process is left.

        Raises:
            KeyboardInterrupt: passed on.
        """
        told = time.monotonic()
        try:
            while (self._waiting or self._running) and time.monotonic() < self._until:
                self._begin_what_can_be_begun()
                if self._running and time.monotonic() - told > PROGRESS_EVERY_S:
                    told = time.monotonic()
                    self._watcher.running()
                if self._waiting or self._running:
                    time.sleep(LOOK_EVERY_S)
                self._collect()
        finally:
            child.end([process for process, _ in self._running.values()], 2 * child.PATIENCE_S)

    def _begin_what_can_be_begun(self) -> None:
        for step in list(self._waiting):
            if not self._over.issuperset((*step.after, *step.after_any)):
                continue
            if not self._done.issuperset(step.after):  # one of them has failed
                self._over.add(step.name)
            elif not (self._free if step.needs_gpu else self._host_is_free):
                continue
            elif not self._fits(step):
                self._over.add(step.name)
            elif is_done(self._run, step):  # nothing that it depends on has changed, or another call did it
                self._over.add(step.name)
                self._done.add(step.name)
            elif not self._start(step):
                continue
            self._waiting.remove(step)

    def _start(self, step: Step) -> bool:
        """Starts a step in a free place, unless somebody else is at it; whether it did."""
        if self._retry.get(step.name, 0) > time.monotonic():
            return False
        if (owner := owner_of(self._run.step_lock(step))) is not None:
            if step.name not in self._retry:
                self._watcher.waits(step, owner)
            self._retry[step.name] = time.monotonic() + RETRY_S
            return False
        gpu = self._free.pop(0) if step.needs_gpu else None
        self._host_is_free = self._host_is_free and gpu is not None
        process = child.start(self._run.command(step), self._environment(gpu), self._run.log(step.name))
        self._running[step.name] = (process, gpu)
        self._watcher.started(step, gpu)
        return True

    def _environment(self, gpu: str | None) -> dict[str, str]:
        environment = dict(os.environ)
        share = max(1, usable_cpus() // max(1, self._places))
        environment.setdefault("nnUNet_n_proc_DA", str(min(12, share)))  # nnU-Net's own is 12, of all CPUs
        if gpu is not None and self._on_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
            environment |= {ALONE: "1"} if self._per_gpu == 1 else {}
        elif gpu is not None and self._places > 1:
            environment.setdefault("OMP_NUM_THREADS", str(share))
        return environment

    def _collect(self) -> None:
        """Gives the places of the steps that have ended to others."""
        for name, (process, gpu) in list(self._running.items()):
            status = process.poll()
            if status is None:
                continue
            del self._running[name]
            child.end([process])  # what a step that was killed has left
            if gpu is None:
                self._host_is_free = True
            else:
                self._free.append(gpu)
            step = self._run.steps[name]
            if status == HELD:
                self._retry[name] = time.monotonic() + RETRY_S
                self._waiting.append(step)
                continue
            self._over.add(name)
            if status == DONE:
                self._done.add(name)
            self._watcher.ended(step, status)
