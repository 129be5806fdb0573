"""Runs a probe in a fresh process, so that neither noise nor a crash of torch or nnU-Net reaches the report."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.host.versions import PACKAGE, installed_version

TIMEOUT_S = 300
_SOURCE_FOLDER = str(Path(__file__).resolve().parents[2])


class ProbeFailed(RuntimeError):
    """The probe ended without an answer; the message is the last line that it printed."""


def run_probe(module: str, *arguments: str) -> Any:
    """What `python -m module RESULT_FILE *arguments` writes into RESULT_FILE as JSON.

    Raises:
        ProbeFailed: no answer.
    """
    return _run(["-m", module], arguments, {})


def run_probe_file(file: Path, *arguments: str, variables: Mapping[str, str]) -> Any:
    """The same of a file that is run without importing this package.

    Args:
        variables: of the environment, instead of this process's.

    Raises:
        ProbeFailed: no answer.
    """
    return _run(["-c", file.read_text(encoding="utf-8")], arguments, variables)


def _run(program: Sequence[str], arguments: Sequence[str], variables: Mapping[str, str]) -> Any:
    """Runs in an empty folder: what lies in the user's current one must not stand in for what is installed.

    Raises:
        ProbeFailed: no answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        environment = {**os.environ, **variables}
        if installed_version(PACKAGE) is None:  # run from a source folder, which the probe's folder is not
            environment["PYTHONPATH"] = os.pathsep.join([_SOURCE_FOLDER, environment.get("PYTHONPATH", "")])
        command = [sys.executable, *program, str(result), *arguments]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,  # a user's module that asks something must not wait for an answer
                capture_output=True,
                text=True,
                errors="replace",
                cwd=folder,
                env=environment,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as late:
            printed = late.stderr or b""
            last = _last_line(printed.decode(errors="replace") if isinstance(printed, bytes) else printed)
            at = f"; the last that it printed: {last}" if last else ""
            raise ProbeFailed(f"no answer within {TIMEOUT_S} s{at}") from None
        if result.is_file():
            return json.loads(result.read_text(encoding="utf-8"))
        last = _last_line(done.stderr or done.stdout)
        raise ProbeFailed(last or f"ended with status {done.returncode} and no message")


def _last_line(printed: str) -> str:
    return next((line.strip() for line in reversed(printed.splitlines()) if line.strip()), "")


def describe(error: BaseException) -> str:
    """`ImportError: first line of its message`."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
