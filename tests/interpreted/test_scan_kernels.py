"""The scan's Triton kernels: the output and every gradient against the plain loop in fp64."""

import pytest
import torch
from helpers.scan_inputs import NAMES, relative_error, scan_inputs

from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.ops import ss2d_scan
from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.dispatch import BACKENDS
from nnunetv2_dsvm.ops.testing import TOLERANCE
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings

FEW_TOKENS = LaunchSettings(interval=8)  # so few between saved states that few tokens make several intervals
# batch, height, width, d_inner, d_state
SHAPES = {
    "one_token": (1, 1, 1, 1, 1),
    "odd": (2, 3, 3, 3, 8),
    "even": (1, 4, 4, 8, 8),  # read as packed words, in rows without a step aside
    "three_intervals": (1, 4, 5, 3, 16),
    "wide_state": (1, 2, 3, 2, 64),
}


def assert_matches_reference(monkeypatch, settings, shape, dtype):
    monkeypatch.setitem(BACKENDS, "under test", Triton(settings))
    inputs = scan_inputs(*shape, dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn(inputs[0].shape, dtype=torch.float64).to(dtype)
    size = {"height": shape[1], "width": shape[2]}
    y = ss2d_scan(*inputs, **size, backend="under test")
    expected = ss2d_scan(*exact, **size, backend="reference")
    assert relative_error(y, expected) <= TOLERANCE[dtype]
    grads = torch.autograd.grad(y, inputs, grad)
    for name, got, right in zip(NAMES, grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert relative_error(got, right) <= TOLERANCE[dtype], name


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *(("odd", dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
        ("even", torch.bfloat16),
        *((shape, torch.float32) for shape in ("one_token", "three_intervals", "wide_state")),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_scan(monkeypatch, shape, dtype):
    assert_matches_reference(monkeypatch, FEW_TOKENS, SHAPES[shape], dtype)


def test_scan_in_chunks(monkeypatch):
    """As on a GPU with so many processors that L must be cut."""
    assert_matches_reference(monkeypatch, FEW_TOKENS._replace(full=1000), SHAPES["three_intervals"], torch.float32)


def test_block():
    """The VSS block on the fused operators against itself on the reference scan in fp64."""
    module = VSSBlock(2, d_state=2, scan_backend="triton")
    exact = VSSBlock(2, d_state=2, scan_backend="reference").double()
    exact.load_state_dict(module.state_dict())
    x = torch.randn(1, 2, 3, 2)
    y, expected = module(x), exact(x.double())
    assert relative_error(y, expected) <= 1e-5
    y.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(module.named_parameters(), exact.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) <= 1e-5, name
