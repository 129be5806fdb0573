"""One command as a child that leaves no process behind: not when it fails, nor when this process is killed."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from nnunetv2_dsvm.cluster.engines.gpus import GpuMemory

PATIENCE_S = 20.0  # for a process that was asked to end
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1  # of Linux' prctl: a signal for this process when the thread that forked it ends
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Stopped(BaseException):
    """SIGTERM, SIGINT or SIGUSR1 has reached this process; like KeyboardInterrupt no error that code would handle."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def stop_on_signals() -> None:
    """From now on the first of `STOPS` raises `Stopped`; those that follow it, as SLURM sends them, do nothing."""

    def stop(number: int, frame: object) -> None:
        for other in STOPS:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in STOPS:
        signal.signal(number, stop)


def _end_with(parent: int) -> None:
    """In a child, before its program: Linux sends it SIGTERM when the process that forked it ends, even by SIGKILL."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)  # one that is ignored would stay so
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it had ended before
            os._exit(1)


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, inherited: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """A child in a session of its own, whose output is appended to `log`.

    Args:
        inherited: descriptors that stay open in it.
    """
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(inherited),
            preexec_fn=partial(_end_with, os.getpid()),
        )


def run(
    command: Sequence[str], environment: Mapping[str, str], log: Path, inherited: Sequence[int], gpu: GpuMemory
) -> int:
    """Runs a command to its end; its exit status.

    Raises:
        Stopped: passed on after the command and all processes of its session have ended.
    """
    child = start(command, environment, log, inherited)
    try:
        with gpu:
            return child.wait()
    finally:
        end([child])


def end(children: Sequence[subprocess.Popen[bytes]], patience_s: float = PATIENCE_S) -> None:
    """Ends children, first politely, and then for good whatever they have left in their sessions."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience_s)
        with suppress(ProcessLookupError, PermissionError):  # of macOS, where only zombies are left
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
