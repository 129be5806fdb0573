"""The fused resize and squared error, in Triton's interpreter, against torch's operators in fp64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnunetv2_dsvm.distillation.resized_mse import supports

HERE = Path(__file__).parent


@pytest.mark.parametrize("case", ["shapes", "types", "operator", "terms"])
def test_interpreted(case):
    """In a process of its own: the interpreter must be chosen before Triton is imported."""
    pytest.importorskip("triton", reason="Triton has no build for this platform")
    result = subprocess.run(
        [sys.executable, HERE / "resized_mse_interpreted.py", case],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) >= 5, result.stderr
    assert all(line.endswith(" ok") for line in lines), result.stdout


def test_a_cpu_has_torchs_operators():
    assert not supports(torch.rand(1, 2, 3, 4), torch.rand(1, 2, 6, 8))


@pytest.mark.parametrize(
    ("size", "dtype", "teachers_dtype"),
    [
        ((6, 9), torch.float32, torch.float32),
        ((2, 4), torch.float32, torch.float32),
        ((51, 4), torch.float32, torch.float32),
        ((6, 8), torch.float64, torch.float32),
        ((6, 8), torch.float32, torch.float64),
        ((6, 0), torch.float32, torch.float32),
    ],
    ids=["not-whole", "smaller", "17-times", "fp64-student", "fp64-teacher", "empty"],
)
def test_what_it_does_not_take(monkeypatch, size, dtype, teachers_dtype):
    """With sizes of an allowed scale, 2, as the counterexample."""
    pytest.importorskip("triton", reason="Triton has no build for this platform")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as if a device were there
    student = torch.rand(1, 2, 3, 4)
    assert supports(student, torch.rand(1, 2, 6, 8))
    assert not supports(student.to(dtype), torch.rand(1, 2, *size, dtype=teachers_dtype))
