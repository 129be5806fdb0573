"""Ends a process that multiprocessing has spawned, on any system, when the one that started it has ended."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable

_PATIENCE_S = 60  # after it: a copy was made in a process that multiprocessing has not started


class EndsWithParent:
    """Ends the process into which it is pickled as soon as that one's parent has ended, also by SIGKILL.

    It needs no call there: arriving is enough. A forked process gets nothing pickled; see `processes`.
    """

    def __reduce__(self) -> tuple[Callable[[], "EndsWithParent"], tuple[()]]:
        return _arrive, ()


def _arrive() -> EndsWithParent:
    threading.Thread(target=_watch, daemon=True).start()
    return EndsWithParent()


def _watch() -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)
        time.sleep(0.1)  # what a process is started with arrives before it knows its parent
