"""How a command is ended from outside."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, which ends nnU-Net's processes too.

    The handler is put back afterwards: processes forked later would inherit it, and a pool that terminates them may
    then wait forever for one that was in the midst of something that swallows exceptions.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
