"""The scan's Triton kernels: the output and every gradient against the plain loop in fp64."""

import pytest
import torch
from helpers.scan_inputs import NAMES, grid_inputs, relative_error

from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.ops import ScanOrder, selective_scan
from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.dispatch import BACKENDS
from nnunetv2_dsvm.ops.fused_core import scan_core, ss2d_core
from nnunetv2_dsvm.ops.projections import split
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.scan_order import as_numbers, atrous_orders
from nnunetv2_dsvm.ops.testing import TOLERANCE
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings
from nnunetv2_dsvm.ops.triton.triton_scan import OneStateScan

FEW_TOKENS = LaunchSettings(interval=8)  # so few between saved states that few tokens make several intervals
SHAPES = {
    "one_token": ScanShape.of_grid(2, (1, 1), 1, 1),
    "one_token_states": ScanShape.of_grid(2, (1, 1), 3, 2),
    "odd": ScanShape.of_grid(2, (3, 3), 3, 8),
    "even": ScanShape.of_grid(1, (4, 4), 8, 8),  # read as packed words, in rows without a step aside
    "three_intervals": ScanShape.of_grid(1, (4, 5), 3, 16),
    "wide_state": ScanShape.of_grid(1, (2, 3), 2, 64),
    "causal": ScanShape(2, (9,), 2, 2, 1, (ScanOrder((0,)),)),
    "volume": ScanShape.of_grid(1, (3, 2, 3), 3, 2),
    "one_state": ScanShape.of_grid(1, (1, 4, 4), 8, 1),  # kernels of its own; channels are read as words
    "one_state_odd": ScanShape.of_grid(1, (3, 5), 33, 1),  # two programs share the channels
    "some_orders": ScanShape(1, (2, 3, 2), 2, 2, 2, (ScanOrder((1, 0, 2)), ScanOrder((2, 1, 0), reverse=True))),
    "atrous": ScanShape(1, (4, 6), 2, 2, 4, atrous_orders(2, 2)),
    "atrous_backwards": ScanShape(2, (4, 2, 2), 2, 1, 1, (ScanOrder((1, 2, 0), True, 2, (0, 1, 1)),)),
}


def laid_as_after_a_transposition(t):
    """The same; contiguous to torch also then, where there is one token, but with a stride that leads elsewhere."""
    turned = t.detach().transpose(0, 1).clone(memory_format=torch.contiguous_format)
    return turned.transpose(0, 1).requires_grad_()


def assert_matches_reference(monkeypatch, settings, shape, dtype):
    monkeypatch.setitem(BACKENDS, "under test", Triton(settings))
    inputs = grid_inputs(shape, dtype)
    grad = torch.randn(inputs[0].shape, dtype=torch.float64).to(dtype)
    if shape.length == 1:
        *inputs, grad = (laid_as_after_a_transposition(t) for t in (*inputs, grad))
    exact = [t.detach().double().requires_grad_() for t in inputs]
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
        *(("one_state_odd", dtype) for dtype in (torch.float32, torch.float16)),
        *((shape, torch.float32) for shape in ("one_token", "one_token_states", "causal")),
        *((shape, torch.float32) for shape in ("three_intervals", "wide_state")),
        *((shape, torch.float32) for shape in ("volume", "some_orders", "atrous", "atrous_backwards")),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_scan(monkeypatch, shape, dtype):
    assert_matches_reference(monkeypatch, FEW_TOKENS, SHAPES[shape], dtype)


@pytest.mark.parametrize("shape", ["three_intervals", "volume"])
def test_scan_in_chunks(monkeypatch, shape):
    """As on a GPU with so many processors that L must be cut."""
    settings = LaunchSettings(interval=4, full=1000)
    assert_matches_reference(monkeypatch, settings, SHAPES[shape], torch.float32)


def assert_core_matches(core, shape):
    """A core, called with x, weight, A, D and dt_bias, against products and the reference scan in fp64."""
    x, _, A, _, _, D, bias = grid_inputs(shape, torch.float32)
    grad = torch.randn(x.shape)
    if shape.length == 1:
        x, grad = laid_as_after_a_transposition(x), laid_as_after_a_transposition(grad)
    weight = torch.randn(shape.directions * (shape.d_inner + 2 * shape.d_state), shape.d_inner, requires_grad=True)
    inputs = (x, weight, A, D, bias)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    dt, B, C = split(exact[0] @ exact[1].mT, shape.d_inner, shape.d_state)
    grid = {"sizes": shape.sizes, "orders": shape.orders}
    expected = selective_scan(exact[0], dt, exact[2], B, C, *exact[3:], **grid, backend="reference")
    y = core(*inputs)
    assert relative_error(y, expected) <= 1e-5
    pairs = zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True)
    assert all(relative_error(got, right) <= 1e-5 for got, right in pairs)
    return inputs


@pytest.mark.parametrize(("width", "d_state"), [(2, 1), (1, 2)], ids=["one_state", "one_token"])
def test_core_of_an_image(width, d_state):
    shape = ScanShape.of_grid(2, (1, width), 2, d_state)
    assert_core_matches(lambda *inputs: ss2d_core(*inputs, height=1, width=width, backend="triton"), shape)


@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float32, 4e-6), (torch.float16, 1.1e-5), (torch.bfloat16, 1.1e-5)]
)
def test_one_state_from_dt(dtype, digits):
    """The kernels' own delta = softplus(dt) and its slope: of one token, where y is delta if all else is 1."""
    dt = torch.linspace(-40, 30, 256).to(dtype).view(1, 1, 1, -1)
    shape = ScanShape(1, (1,), 256, 1, 1, (ScanOrder((0,)),))
    plan, kernels = LaunchPlan(shape, dt.device, LaunchSettings(interval=4)), OneStateScan()
    x, A, bias = torch.ones(1, 1, 256, dtype=dtype), -torch.ones(1, 256, 1), torch.zeros(1, 256)
    B = C = torch.ones(1, 1, 1, 1, dtype=dtype)
    saved, raw = torch.empty(1, 1, 1, 1, 256), dt.double().flatten()
    y = kernels.forward(plan, x, dt, A, B, C, bias, saved, torch.float32, raw=True)
    torch.testing.assert_close(y.double().flatten(), raw.exp().log1p(), rtol=digits, atol=0)
    grad_dt, states = torch.empty(1, 1, 1, 256), (torch.empty_like(B), torch.empty_like(C))
    grads = kernels.backward(plan, x, x, dt, A, B, C, bias, saved, grad_dt, *states, raw=True)
    atol = 0 if dtype == torch.float32 else 1e-7  # 16 bit: what 1 - exp(-delta) cancels
    for slope in (grad_dt, grads.dt_bias):
        torch.testing.assert_close(slope.double().flatten(), raw.sigmoid(), rtol=2 * digits, atol=atol)


def test_core_in_orders_of_its_own():
    orders = (ScanOrder((0,), reverse=True),)
    shape = ScanShape(1, (3,), 2, 1, 1, orders)
    inputs = assert_core_matches(lambda *i: scan_core(*i, sizes=(3,), orders=orders, backend="triton"), shape)
    call = (*(t.detach() for t in inputs), (3,), as_numbers(orders, (3,)), "triton", True)
    torch.library.opcheck(
        torch.ops.nnunetv2_dsvm.ss2d_core.default, call, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("orders", [None, atrous_orders(2, 2)[:1]], ids=["all", "atrous"])
def test_core_with_the_norm_after_it(orders):
    """y, which backward gets, is the core's to the bit; in inference the result is the same."""
    fused, shape = Triton().fused, ScanShape(1, (2, 2), 2, 1, 1 if orders else 4, orders)
    x, _, A, _, _, D, bias = (t.detach() for t in grid_inputs(shape, torch.float16))
    weight = torch.randn(shape.directions * (shape.d_inner + 2 * shape.d_state), shape.d_inner)
    core = x, weight, A.float(), D.float(), bias.float()
    norm, gate = (torch.randn(2), torch.randn(2)), torch.randn(x.shape).half()
    out, y, saved = fused.core_norm_forward(*core, *norm, gate, shape, True, 1e-5, torch.float16)
    expected_y, expected_saved = fused.core_forward(*core, shape, True)
    assert torch.equal(y, expected_y) and torch.equal(saved, expected_saved)
    assert torch.equal(out, fused.layer_norm_forward(y, *norm, gate, 1e-5, torch.float16))
    inference = fused.core_norm_forward(*core, *norm, gate, shape, False, 1e-5, torch.float16)
    assert torch.equal(inference[0], out) and inference[1:] == (None, None)


@pytest.mark.parametrize("sizes", [(2, 3), (2, 1, 3)], ids=["image", "volume"])
def test_block(sizes):
    """The VSS block on the fused operators against itself on the reference scan in fp64."""
    module = VSSBlock(2, d_state=2, scan_backend="triton", axes=len(sizes))
    exact = VSSBlock(2, d_state=2, scan_backend="reference", axes=len(sizes)).double()
    exact.load_state_dict(module.state_dict())
    x = torch.randn(1, *sizes, 2)
    y, expected = module(x), exact(x.double())
    assert relative_error(y, expected) <= 1e-5
    y.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(module.named_parameters(), exact.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) <= 1e-5, name
