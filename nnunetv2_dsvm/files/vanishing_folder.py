"""A folder that goes with the process that works in it, also when that one is killed."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# It waits for the end of its standard input, which is the end of the process that holds the other side of the pipe.
_WATCH = """
import shutil, signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.stdin.buffer.read()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


@contextmanager
def vanishing(folder: Path) -> Iterator[None]:
    """Within it a folder exists only as long as this process: a second one removes it when this one has been killed.

    Args:
        folder: that exists, removed at the end in any case.

    Raises:
        OSError: the second process cannot be started.
    """
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, str(folder.resolve())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder.anchor or None,  # else the folder that this process is in could not be unmounted
        start_new_session=True,  # Ctrl-C, and what ends a whole group of processes, do not reach it
    )
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        assert watcher.stdin is not None  # it is a pipe
        watcher.stdin.close()
        watcher.wait()
