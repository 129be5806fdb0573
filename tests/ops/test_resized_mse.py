"""Which maps the fused resize and squared error takes; its numbers: tests/interpreted/test_resized_mse_kernels.py."""

import pytest
import torch

from nnunetv2_dsvm.ops.fused.resized_mse import supports


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
    assert not supports(torch.rand(1, 2, 3, 4, 5), torch.rand(1, 2, 6, 8, 10))
