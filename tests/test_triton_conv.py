"""The convolution's Triton kernels on a CPU, in Triton's interpreter: output and gradients against torch's in fp64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no build for this platform")
HERE = Path(__file__).parent


@pytest.mark.parametrize("case", ["float32", "float16", "bfloat16", "kernel", "programs"])
def test_interpreted(case):
    """In a process of its own: the interpreter must be chosen before Triton is imported."""
    result = subprocess.run(
        [sys.executable, HERE / "conv_interpreted.py", case],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) >= 8, result.stderr
    assert all(line.endswith(" ok") for line in lines), result.stdout
