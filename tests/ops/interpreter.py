"""Runs a script of checks in Triton's interpreter, which executes the kernels on a CPU."""

import os
import subprocess
import sys
from pathlib import Path


def assert_checks_pass(script: str, *arguments: str, least: int) -> None:
    """Each of the script's lines, `least` or more of them, ends with " ok".

    In a process of its own: the interpreter must be chosen before Triton is imported.
    """
    result = subprocess.run(
        [sys.executable, Path(__file__).parent / script, *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, encoding="utf-8", timeout=600,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) >= least, result.stderr
    assert all(line.endswith(" ok") for line in lines), result.stdout
