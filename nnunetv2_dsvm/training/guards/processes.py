"""The processes that load data end with their training, however that ends.

nnU-Net ends them after the last epoch, and Python when the program ends in order. A program that is killed can do
neither: its workers would wait forever for somebody to take their batches, and keep their memory.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.training.guards.parent_watch import EndsWithParent

_PR_SET_PDEATHSIG = 1  # of Linux' prctl: a signal for this process when the thread that forked it ends
_ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has but one
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

_forking = threading.local()  # `parent`: this process, while this thread forks others that are to end with it


def _end_with_parent() -> None:
    """In a forked process."""
    parent, _forking.parent = getattr(_forking, "parent", None), None  # not for what this process may fork itself
    if parent is None or _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before
        os._exit(1)


if _LIBC is not None:
    os.register_at_fork(after_in_child=_end_with_parent)


@contextmanager
def fork_to_end_with_this_one() -> Iterator[None]:
    """Processes that are forked within it are killed by Linux when this process ends, also by SIGKILL."""
    if threading.current_thread() is threading.main_thread():  # they would end with another thread, not the process
        _forking.parent = os.getpid()
    try:
        yield
    finally:
        _forking.parent = None


def spawn_to_end_with_this_one(datasets: Iterable[nnUNetBaseDataset]) -> None:
    """Lets spawned processes that read these datasets end with this one: macOS, Windows and Python 3.14 do not fork."""
    for dataset in datasets:
        dataset.ends_with_training = EndsWithParent()  # goes where the dataset goes


@contextmanager
def ending_loaders(trainer: nnUNetTrainer) -> Iterator[None]:
    """An exception within it ends the loading processes first: else they outlive it, and report each other's end.

    SIGTERM and SIGUSR1, as from `kill` or a batch system, become such an exception (exit status 143 and 138), except
    with several GPUs, where torch ends a rank by it that may be waiting for another.
    """
    with _terminated_by_exception(not trainer.is_ddp):
        try:
            yield
        except BaseException:
            for loader in (trainer.dataloader_train, trainer.dataloader_val):
                if isinstance(loader, (NonDetMultiThreadedAugmenter, MultiThreadedAugmenter)):
                    with suppress(Exception):  # of two errors the first one counts
                        loader._finish()
            raise


@contextmanager
def _terminated_by_exception(wanted: bool) -> Iterator[None]:
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = [number for number in _ENDS if wanted and in_main_thread and signal.getsignal(number) is signal.SIG_DFL]
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            for other in numbers:  # a batch system sends several: the first one counts
                signal.signal(other, signal.SIG_IGN)
            raise SystemExit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # a process that was forked from it ends as it would have
        os.kill(os.getpid(), number)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
