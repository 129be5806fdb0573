"""Run nnU-Net's commands as a user would: print, stream, log; leave no process behind."""

import codecs
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from nnunetv2_dsvm.errors import UserError

SILENCE_BEFORE_HEARTBEAT_S = 20
_OWN = "nnUNetv2_dsvm"


def runnable(command: Sequence[str]) -> list[str]:
    """A command as a process is started with it: nnU-Net's with the path of its script, this package's by this Python.

    The latter needs no script, which an uninstalled copy of the package has not.

    Raises:
        UserError: nnU-Net's script is missing.
    """
    if command[0] == _OWN:
        return [sys.executable, "-m", "nnunetv2_dsvm.cli.main", *command[1:]]
    return [find_command(command[0]), *command[1:]]


def find_command(name: str) -> str:
    """The path of a console script of nnU-Net's: of this Python's environment if it is there, else the first on PATH.

    Raises:
        UserError: there is none.
    """
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        raise UserError(
            f"the command {name} is neither beside {sys.executable} nor on PATH. "
            "nnU-Net brings it: pip install 'nnunetv2>=2.8,<3'"
        )
    return path


def run_command(command: Sequence[str], *, environment: Mapping[str, str], log_file: Path) -> None:
    """Print a command, run it, show its output as it comes and append it to `log_file`.

    While the command says nothing, a line now and then tells for how long it has been running.

    Raises:
        UserError: the command is missing or ended with another exit status than 0.
        KeyboardInterrupt: passed on after the command and all processes it started have ended.
    """
    full = runnable(command)
    print(f"\n$ {shlex.join(command)}", flush=True)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    # A session of its own: nnU-Net starts worker processes, and an interrupt must end them all, not some of them.
    process = subprocess.Popen(
        full,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        with open(log_file, "a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(command)}\n")
            assert process.stdout is not None  # it is a pipe
            _stream(process.stdout, log, started)
        status = process.wait()
    except BaseException:
        _end(process)
        raise
    if status != 0:
        raise UserError(f"{command[0]} failed with exit status {status}; its output is above and in {log_file}")
    print(f"({command[0]}: {_clock(time.monotonic() - started)})", flush=True)


def _stream(output: IO[bytes], log: IO[str], started: float) -> None:
    chunks: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        while chunk := os.read(output.fileno(), 65536):
            chunks.put(chunk)
        chunks.put(b"")

    threading.Thread(target=read, daemon=True).start()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while True:
        try:
            chunk = chunks.get(timeout=SILENCE_BEFORE_HEARTBEAT_S)
        except queue.Empty:
            print(f"  … running for {_clock(time.monotonic() - started)}", flush=True)
            continue
        text = decoder.decode(chunk, final=not chunk)
        sys.stdout.write(text)
        sys.stdout.flush()
        log.write(text)
        log.flush()
        if not chunk:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and everything it started: first politely, then for good."""
    if not hasattr(os, "killpg"):
        process.terminate()
        process.wait()
        return
    for number, patience_s in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            continue


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
