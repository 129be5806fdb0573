"""OpenMP threads that go to sleep while they wait, where other processes need the CPUs they would hold.

The threads of PyTorch's OpenMP (libgomp, on Linux) spin for milliseconds at the end of each operation. That is fastest
for a process that has the CPUs to itself. Beside a second one, each spins for a partner that waits for a CPU on which
the other process spins, and both nearly stop. `OMP_WAIT_POLICY` and `GOMP_SPINCOUNT` are read when torch is loaded,
before any of our code runs. But libgomp spins 3,000 times shorter while it has more threads than CPUs (its manual,
GOMP_SPINCOUNT), and it looks that up at every wait. So one thread more, which sleeps, is what it takes.
"""

import os
import sys
import threading
import time

import torch

_WINDOW_S = 0.25
# A process alone loses a CPU to another a few times a second, one of two that compete for them about 50 times and more.
_LOSSES_PER_S = 30
_WINDOWS = 2  # one after the other, so that a short-lived neighbour changes nothing
_ENOUGH_FOR_TWO = 2**16 + 1  # elements: torch takes a second thread from 2^15 on

_started_in: int | None = None  # the process; a fork has none of its parent's threads


def sleep_when_crowded() -> None:
    """From the first call on, and once this process competes for its CPUs, its waiting OpenMP threads sleep.

    Nothing happens where the user has set how they wait, or that there is one thread.
    """
    global _started_in
    if _started_in == os.getpid():
        return
    _started_in = os.getpid()
    if sys.platform != "linux" or torch.get_num_threads() == 1:
        return
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    threading.Thread(target=_watch, name="nnunetv2_dsvm-openmp", daemon=True).start()


def _watch() -> None:
    crowded, before = 0, _lost_cpus()
    while crowded < _WINDOWS:
        time.sleep(_WINDOW_S)
        now = _lost_cpus()
        crowded = crowded + 1 if now - before >= _LOSSES_PER_S * _WINDOW_S else 0
        before = now
    torch.zeros(_ENOUGH_FOR_TWO).add_(1)  # gives this thread a team of OpenMP threads of its own, kept while it lives
    threading.Event().wait()


def _lost_cpus() -> int:
    """How often the system has taken a CPU from a thread of this process to give it to another."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
