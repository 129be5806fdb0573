"""The scan's Triton kernels: the output and every gradient against the plain loop in fp64."""

import pytest
import torch
from helpers.scan_inputs import NAMES, grid_inputs, relative_error

from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.ops import ScanOrder, selective_scan
from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.dispatch import BACKENDS
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.scan_order import atrous_orders
from nnunetv2_dsvm.ops.testing import TOLERANCE
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings

FEW_TOKENS = LaunchSettings(interval=8)  # so few between saved states that few tokens make several intervals
SHAPES = {
    "one_token": ScanShape.of_grid(1, (1, 1), 1, 1),
    "odd": ScanShape.of_grid(2, (3, 3), 3, 8),
    "even": ScanShape.of_grid(1, (4, 4), 8, 8),  # read as packed words, in rows without a step aside
    "three_intervals": ScanShape.of_grid(1, (4, 5), 3, 16),
    "wide_state": ScanShape.of_grid(1, (2, 3), 2, 64),
    "causal": ScanShape(2, (9,), 2, 2, 1, (ScanOrder((0,)),)),
    "sequence": ScanShape.of_grid(1, (5,), 2, 2),
    "volume": ScanShape.of_grid(1, (3, 2, 3), 3, 2),
    "one_state": ScanShape.of_grid(1, (1, 4, 4), 8, 1),  # channels read as packed words, states not
    "some_orders": ScanShape(1, (2, 3, 2), 2, 2, 2, (ScanOrder((1, 0, 2)), ScanOrder((2, 1, 0), reverse=True))),
    "atrous": ScanShape(1, (4, 6), 2, 2, 4, atrous_orders(2, 2)),
    "atrous_backwards": ScanShape(1, (4, 2, 2), 2, 1, 1, (ScanOrder((1, 2, 0), True, 2, (0, 1, 1)),)),
}


def assert_matches_reference(monkeypatch, settings, shape, dtype):
    monkeypatch.setitem(BACKENDS, "under test", Triton(settings))
    inputs = grid_inputs(shape, dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn(inputs[0].shape, dtype=torch.float64).to(dtype)
    grid = {"sizes": shape.sizes, "orders": shape.orders}
    y = selective_scan(*inputs, **grid, backend="under test")
    expected = selective_scan(*exact, **grid, backend="reference")
    assert relative_error(y, expected) <= TOLERANCE[dtype]
    grads = torch.autograd.grad(y, inputs, grad)
    for name, got, right in zip(NAMES, grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert relative_error(got, right) <= TOLERANCE[dtype], name


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *(("odd", dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
        *((shape, torch.bfloat16) for shape in ("even", "one_state")),
        *((shape, torch.float32) for shape in ("one_token", "three_intervals", "wide_state", "causal", "sequence")),
        *((shape, torch.float32) for shape in ("volume", "some_orders", "atrous", "atrous_backwards")),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_scan(monkeypatch, shape, dtype):
    assert_matches_reference(monkeypatch, FEW_TOKENS, SHAPES[shape], dtype)


@pytest.mark.parametrize("shape", ["three_intervals", "volume", "atrous"])
def test_scan_in_chunks(monkeypatch, shape):
    """As on a GPU with so many processors that L must be cut."""
    settings = LaunchSettings(interval=4, full=1000)
    assert_matches_reference(monkeypatch, settings, SHAPES[shape], torch.float32)


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
