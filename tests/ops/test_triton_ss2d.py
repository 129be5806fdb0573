"""The Triton kernels on a CPU, in Triton's interpreter: output and every gradient against the plain loop in fp64."""

import pytest
import torch
from interpreter import assert_checks_pass

from nnunetv2_dsvm.ops.triton import launch

pytest.importorskip("triton", reason="Triton has no build for this platform")
CASES = [
    *(("odd", dtype) for dtype in ("float32", "float16", "bfloat16")),
    ("even", "bfloat16"),
    *((shape, "float32") for shape in ("one_token", "three_intervals", "wide_state")),
    ("chunks",),
    ("module",),
    ("norm",),
]


@pytest.mark.parametrize("case", CASES, ids="_".join)
def test_interpreted(case):
    assert_checks_pass("triton_interpreted.py", *case, least=5)


@pytest.mark.parametrize(
    ("device", "dtype", "d_state", "reason"),
    [("cpu", torch.float32, 16, "not on cpu")],
)
def test_refuses_with_the_reason(device, dtype, d_state, reason):
    supported, why = launch.supports(torch.device(device), dtype, d_state)
    assert not supported and reason in why


def test_a_triton_that_cannot_launch_is_not_taken(monkeypatch):
    import triton

    class NoCompiler:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(triton.runtime, "driver", NoCompiler())
    launch._driver_problem.cache_clear()
    supported, why = launch.supports(torch.device("cuda"), torch.float32, 16)
    launch._driver_problem.cache_clear()
    assert not supported and "cannot launch kernels (Failed to find C compiler" in why


@pytest.mark.parametrize(
    ("dtype", "d_state", "reason"), [(torch.float64, 16, "float64"), (torch.float32, 65, "d_state")]
)
def test_refuses_what_the_kernels_do_not_take(monkeypatch, dtype, d_state, reason):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as if a device were there
    supported, why = launch.supports(torch.device("cpu"), dtype, d_state)
    assert not supported and reason in why


def test_chunks_are_whole_intervals_that_cover_the_image(monkeypatch):
    monkeypatch.setattr(launch, "_FULL", 200)
    for height, width in ((1, 1), (8, 8), (9, 8), (64, 64), (131, 77)):
        problem = launch.Problem(1, height, width, 8, 16, torch.device("cpu"))
        chunks, length = problem.chunks(launch.scan_tile(16, 32))
        assert length % launch.INTERVAL == 0
        assert (chunks - 1) * length < height * width <= chunks * length
