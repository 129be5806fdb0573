"""OpenMP threads that go to sleep while they wait, instead of holding a CPU that another process needs.

The threads of PyTorch's OpenMP (libgomp, on Linux) spin for milliseconds at the end of each operation. Beside a second
process as busy as this one they spin for a partner that waits for a CPU on which the other process spins: both nearly
stop. `OMP_WAIT_POLICY` and `GOMP_SPINCOUNT` are read when torch is loaded, before any of our code runs. But libgomp
spins 3,000 times shorter while it has more threads than CPUs (its manual, GOMP_SPINCOUNT), and that it looks up at
every wait. So one thread more, which sleeps for the life of the process, is what it takes.
"""

import os
import sys
import threading

import torch

_ENOUGH_FOR_TWO = 2**16 + 1  # elements: torch takes a second thread from 2^15 on

_started_in: int | None = None  # the process; a fork has none of its parent's threads


def sleep_while_waiting() -> None:
    """From the first call on, waiting OpenMP threads of this process sleep, unless the user has set how they wait."""
    global _started_in
    if _started_in == os.getpid():
        return
    _started_in = os.getpid()
    if sys.platform != "linux" or torch.get_num_threads() == 1:
        return
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    threading.Thread(target=_hold_a_thread, name="nnunetv2_dsvm-openmp", daemon=True).start()


def _hold_a_thread() -> None:
    torch.zeros(_ENOUGH_FOR_TWO).add_(1)  # gives this thread a team of OpenMP threads of its own, kept while it lives
    threading.Event().wait()
