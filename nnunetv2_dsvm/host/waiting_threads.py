"""OpenMP threads that go to sleep while they wait, where other processes need the CPUs they would hold.

The threads of PyTorch's OpenMP (libgomp, on Linux) spin for milliseconds at the end of each operation. That is fastest
for a process that has the CPUs to itself. Beside a second one, each spins for a partner that waits for a CPU on which
the other process spins, and both nearly stop. `OMP_WAIT_POLICY` and `GOMP_SPINCOUNT` are read when torch is loaded,
before any of our code runs. But libgomp spins 3,000 times shorter while it has more threads than CPUs (its manual,
GOMP_SPINCOUNT), and it looks that up at every wait. So it takes as many threads more, which sleep, as bring it there.
"""

import os
import sys
import threading
import time
from contextlib import suppress

import torch

WINDOW_S = 0.25
# A process alone loses a CPU to another a few times a second, one of two that compete for them about 50 times and more.
_LOSSES_PER_S = 30
_WINDOWS = 2  # one after the other, so that a short-lived neighbour changes nothing
_PER_THREAD = 2**15  # elements: torch takes one thread more for each so many

started_in: int | None = None  # the process; a fork has none of its parent's threads


def sleep_when_crowded() -> None:
    """From the first call on, and once this process competes for its CPUs, its waiting OpenMP threads sleep.

    Nothing happens where the user has set how they wait, or that there is one thread.
    """
    global started_in
    if started_in == os.getpid():
        return
    started_in = os.getpid()
    if sys.platform != "linux" or torch.get_num_threads() == 1:
        return
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    with suppress(RuntimeError):  # no thread can be started: it goes without
        threading.Thread(target=_watch, name="nnunetv2_dsvm-openmp", daemon=True).start()


def _watch() -> None:
    crowded, before = 0, _lost_cpus()
    while crowded < _WINDOWS:
        time.sleep(WINDOW_S)
        now = _lost_cpus()
        crowded = crowded + 1 if now - before >= _LOSSES_PER_S * WINDOW_S else 0
        before = now
    # Gives this thread a team of its own, kept while it lives. Torch's default is a thread per core: with two hardware
    # threads a core there are twice as many CPUs.
    threads = torch.get_num_threads()
    team = max(2, len(os.sched_getaffinity(0)) + 2 - threads)
    torch.set_num_threads(team)  # of this thread, and of those started before the next line but one
    torch.zeros(team * _PER_THREAD, device="cpu").add_(1)
    torch.set_num_threads(threads)
    threading.Event().wait()


def _lost_cpus() -> int:
    """How often the system has taken a CPU from a thread of this process to give it to another."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
