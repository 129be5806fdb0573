"""Every backend of the scan against the plain loop in fp64: output and every gradient."""

import math
import sys
from types import SimpleNamespace

import pytest
import scipy.signal
import torch
from helpers.scan_inputs import NAMES, grid_inputs, relative_error, scan_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.ops import selective_scan, ss2d_scan
from nnunetv2_dsvm.ops.backends.mamba_ssm import MambaSSM
from nnunetv2_dsvm.ops.backends.scan_blocks import Limits
from nnunetv2_dsvm.ops.backends.torch_chunked import TorchChunked
from nnunetv2_dsvm.ops.dispatch import BACKENDS
from nnunetv2_dsvm.ops.scan_inputs import ScanInputs, ScanShape
from nnunetv2_dsvm.ops.scan_order import (
    ScanOrder,
    as_numbers,
    atrous_orders,
    grid_orders,
    num_directions,
    scan_orders,
)

# batch, height, width, d_inner, d_state
SHAPES = {
    "one_token": (1, 1, 1, 1, 1),
    "prime_length": (2, 1, 13, 3, 4),
    "column": (1, 17, 1, 2, 16),
    "wide": (2, 3, 11, 5, 8),
    "tall": (1, 9, 4, 4, 16),
    "square": (3, 8, 8, 6, 3),
}


def by_size(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def run(inputs, height, width, backend, grad):
    y = ss2d_scan(*inputs, height=height, width=width, backend=backend)
    return y, torch.autograd.grad(y, inputs, grad.to(y.dtype))


def assert_matches_reference(inputs, height, width, backend, tolerance):
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn(inputs[0].shape, dtype=torch.float64).to(inputs[0].dtype)
    y, grads = run(inputs, height, width, backend, grad)
    expected_y, expected_grads = run(exact, height, width, "reference", grad.double())
    assert y.dtype == inputs[0].dtype
    assert relative_error(y, expected_y) <= tolerance
    for name, tensor, got, expected in zip(NAMES, inputs, grads, expected_grads, strict=True):
        assert got.dtype == tensor.dtype, name
        assert relative_error(got, expected) <= tolerance, name


def test_scan_orders_of_a_2_by_3_grid():
    # 0 1 2
    # 3 4 5
    assert scan_orders(2, 3).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


@pytest.mark.parametrize("sizes", [(4,), (2, 3), (3, 1), (2, 3, 4), (3, 1, 2)], ids=str)
def test_each_axis_runs_fastest_forwards_and_backwards(sizes):
    """Against permute and flip: the last axis first, the others of a direction in raster order."""
    raster = torch.arange(math.prod(sizes)).view(sizes)
    axes = range(len(sizes))
    forwards = [raster.permute(*(a for a in axes if a != axis), axis).flatten() for axis in reversed(axes)]
    expected = torch.stack([*forwards, *(order.flip(0) for order in forwards)])
    assert torch.equal(grid_orders(sizes), expected) and len(expected) == num_directions(len(sizes))


@pytest.mark.parametrize("sizes", [(7,), (2, 3, 4), (3, 1, 5)], ids=str)
def test_grids_of_other_axes(sizes):
    """torch_chunked against the loop; K = 2 and 6 directions."""
    inputs = grid_inputs(ScanShape.of_grid(2, sizes, 3, 2))
    y, expected = (selective_scan(*inputs, sizes=sizes, backend=name) for name in ("torch_chunked", "reference"))
    assert relative_error(y, expected) <= 1e-12
    grad = torch.randn_like(y)
    pairs = zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True)
    assert all(relative_error(got, right) <= 1e-12 for got, right in pairs)


@pytest.mark.parametrize("backend", ["torch_chunked", "reference"])
def test_a_slab_is_an_image(backend):
    """Along an axis of one token the others run in raster order: an image's four directions and row-major once more."""
    x, dt, A, B, C, D, bias = grid_inputs(ScanShape.of_grid(2, (1, 3, 4), 3, 2))
    slab = selective_scan(x, dt, A, B, C, D, bias, sizes=(1, 3, 4), backend=backend)

    def image(directions, orders):
        of = torch.tensor(directions)
        inputs = (x, dt[:, :, of], A[of], B[:, :, of], C[:, :, of], D[of], bias[of])
        return selective_scan(*inputs, sizes=(3, 4), orders=orders, backend=backend)

    raster = [ScanOrder((0, 1)), ScanOrder((0, 1), reverse=True)]
    assert relative_error(slab, image([0, 1, 3, 4], None) + image([2, 5], raster)) <= 1e-14


def test_a_long_volume_is_filtered():
    """262,144 tokens whose steps and states are constant: each direction is a filter of its sequence (scipy's)."""
    sizes, x = (64, 64, 64), torch.randn(1, 64**3, 1, dtype=torch.float64)
    dt, A = torch.zeros(1, 64**3, 6, 1, dtype=torch.float64), -torch.arange(1.0, 7.0).double().view(6, 1, 1) / 100
    states, nothing = torch.ones(1, 64**3, 6, 1, dtype=torch.float64), torch.zeros(6, 1, dtype=torch.float64)
    with Largest() as largest:
        y = selective_scan(x, dt, A, states, states, nothing, nothing, sizes=sizes)
    delta, expected = math.log(2), torch.zeros(64**3, dtype=torch.float64)  # softplus(0)
    for order, a in zip(grid_orders(sizes), A.flatten().tolist(), strict=True):
        filtered = scipy.signal.lfilter([delta], [1, -math.exp(delta * a)], x.flatten()[order].numpy())
        expected[order] += torch.from_numpy(filtered)
    assert relative_error(y.flatten(), expected) <= 1e-10
    assert largest.numel <= 2 * dt.numel()


def test_groups_of_channels():
    """Each group of channels has B and C of its own."""
    shape = ScanShape.of_grid(2, (2, 3), 6, 2)
    x, dt, A, B, C, D, bias = grid_inputs(shape)
    groups = torch.randn(2, 2, 6, 4, 3, 2, dtype=torch.float64)
    y = selective_scan(x, dt, A, *groups, D, bias, sizes=(2, 3))
    for g in range(3):
        here = slice(2 * g, 2 * g + 2)
        B, C = groups[:, :, :, :, g]
        inputs = (x[..., here], dt[..., here], A[:, here], B, C, D[:, here], bias[:, here])
        expected = selective_scan(*inputs, sizes=(2, 3), backend="reference")
        assert relative_error(y[..., here], expected) <= 1e-12
    with pytest.raises(ValueError, match="divides x's channels"):
        selective_scan(x, dt, A, *groups[:, :, :, :, [0, 1, 2, 0]], D, bias, sizes=(2, 3))


def test_atrous_orders_share_a_grid():
    """The published example of ASP-VMUNet for 6x6 tokens and a step of 2 (arXiv 2503.19427)."""
    orders = grid_orders((6, 6), orders=atrous_orders(2, 2))
    assert orders[0].tolist() == [0, 2, 4, 12, 14, 16, 24, 26, 28]
    assert orders[1].tolist() == [1, 3, 5, 13, 15, 17, 25, 27, 29]
    assert orders[2].tolist() == [6, 8, 10, 18, 20, 22, 30, 32, 34]
    assert sorted(orders.flatten().tolist()) == list(range(36))


@pytest.mark.parametrize(
    ("sizes", "orders"),
    [
        ((9,), [ScanOrder((0,))]),
        ((2, 3, 4), [ScanOrder((1, 0, 2)), ScanOrder((2, 1, 0), reverse=True)]),
        ((4, 6), atrous_orders(2, 2)),
    ],
    ids=["causal", "two of three axes", "atrous"],
)
def test_any_orders(sizes, orders):
    """Each direction alone, by walking a sequence of its own tokens, one order after the other."""
    x, dt, A, B, C, D, bias = grid_inputs(ScanShape(2, sizes, 3, 2, len(orders)))
    expected = torch.zeros_like(x)
    for k, order in enumerate(orders):
        walk = order.tokens(sizes)
        one = (x[:, walk], dt[:, walk, k, None], A[k, None], B[:, walk, k, None], C[:, walk, k, None])
        alone = ScanInputs(*one, D[k, None], bias[k, None], (len(walk),), (ScanOrder((0,)),))
        expected = expected.index_add(1, walk, BACKENDS["reference"].forward(alone, save=False)[0])
    inputs = (x, dt, A, B, C, D, bias)
    grad = torch.randn_like(x)
    right = torch.autograd.grad(expected, inputs, grad)
    for name in ("torch_chunked", "reference"):
        y = selective_scan(*inputs, sizes=sizes, orders=orders, backend=name)
        assert relative_error(y, expected) <= 1e-12
        for got, of_loop in zip(torch.autograd.grad(y, inputs, grad), right, strict=True):
            assert relative_error(got, of_loop) <= 1e-12


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ([ScanOrder((0, 0))], "axes of an order"),
        ([ScanOrder((0, 1), step=2)], "must divide the sizes"),
        ([ScanOrder((0, 1)), ScanOrder((0, 1), step=3)], "one step"),
        ([ScanOrder((0, 1), step=3, phase=(0, 3))], "phase"),
    ],
)
def test_orders_that_do_not_walk_through_the_grid_are_refused(orders, message):
    inputs = grid_inputs(ScanShape(1, (3, 6), 2, 1, len(orders)))
    with pytest.raises(ValueError, match=message):
        selective_scan(*inputs, sizes=(3, 6), orders=orders)


def test_scan_orders_first_used_at_inference_serve_a_training():
    """They are cached."""
    grid_orders.cache_clear()
    inputs = scan_inputs(1, 2, 3, 1, 1)
    with torch.inference_mode():
        ss2d_scan(*inputs, height=2, width=3, backend="reference")
    ss2d_scan(*inputs, height=2, width=3, backend="reference").sum().backward()
    assert inputs[0].grad.isfinite().all()


def test_reference_equals_the_closed_form():
    """One channel, one state, two tokens in a row: both directions by hand."""
    x = torch.tensor([[[2.0], [3.0]]], dtype=torch.float64)
    dt = torch.zeros(1, 2, 4, 1, dtype=torch.float64)
    ones = torch.ones(1, 2, 4, 1, dtype=torch.float64)
    A, D, bias = (torch.full(s, v, dtype=torch.float64) for s, v in (((4, 1, 1), -1.0), ((4, 1), 0.5), ((4, 1), 0.0)))
    delta = math.log(2)  # softplus(0)
    decay = math.exp(-delta)
    forwards = [delta * 2, decay * delta * 2 + delta * 3]
    backwards = [decay * delta * 3 + delta * 2, delta * 3]
    # A row is its own column order, so each direction counts twice.
    expected = [2 * (f + b) + 4 * 0.5 * v for f, b, v in zip(forwards, backwards, (2.0, 3.0), strict=True)]
    y = ss2d_scan(x, dt, A, ones, ones, D, bias, height=1, width=2, backend="reference")
    assert y.flatten().tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)],
    ids=["fp64", "fp32", "fp16", "bf16"],
)
def test_chunked_matches_reference(shape, dtype, tolerance):
    assert_matches_reference(scan_inputs(*shape, dtype), shape[1], shape[2], "torch_chunked", tolerance)


@pytest.mark.parametrize("limits", [(1, 1, 1), (1, 200, 500), (500, 1, 900), (500, 900, 9000), (2000, 5000, 1)])
def test_chunked_in_blocks_and_chunks(monkeypatch, limits):
    """One chunk and several, the last one shorter or not; blocks of one step, of some, and of all."""
    monkeypatch.setitem(BACKENDS, "cut", TorchChunked(Limits(*limits, least_chunks=2)))
    assert_matches_reference(scan_inputs(3, 4, 7, 5, 3), 4, 7, "cut", 1e-12)
    assert_matches_reference(scan_inputs(1, 5, 5, 5, 3), 5, 5, "cut", 1e-12)


def test_chunks_that_the_cpu_cuts_itself():
    assert_matches_reference(scan_inputs(1, 33, 32, 2, 2), 33, 32, "torch_chunked", 1e-12)


class Largest(TorchDispatchMode):
    """Remembers the most elements that an operation made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.numel = max(self.numel, result.numel())
        return result


class CountsShared(TorchDispatchMode):
    """Counts the operations that torch shares among a CPU's threads: those of more than 2^15 elements."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() > 2**15 and not function.is_view:
            self.count += 1
        return result


def test_threads_meet_seldom():
    """At each shared operation threads wait for each other, and processes that share CPUs for time slices."""
    tensors = [t.detach() for t in scan_inputs(1, 64, 64, 32, 8, torch.float32)]  # stage 1 of the preset small
    inputs = ScanInputs(*tensors, (64, 64))
    with CountsShared() as forward:
        TorchChunked().forward(inputs, save=False)
    with CountsShared() as backward:
        TorchChunked().backward(inputs.x, inputs, None)
    assert forward.count < 100 and backward.count < 200  # 567 and 1,305 with several in each step


def test_chunked_survives_large_and_small_steps():
    """exp(delta A) from 0 to 1: a form with ratios of cumulative products would overflow."""
    inputs = scan_inputs(1, 6, 50, 3, 16, torch.float32)
    with torch.no_grad():
        inputs[1][:, ::7] = 40.0
        inputs[1][:, 1::5] = -40.0
    assert_matches_reference(inputs, 6, 50, "torch_chunked", 1e-5)


def test_chunked_takes_strided_inputs():
    x, dt, A, B, C, D, bias = (t.detach() for t in scan_inputs(2, 3, 4, 6, 2))
    strided = dt.transpose(1, 3).contiguous().transpose(1, 3)
    assert not strided.is_contiguous()
    y = ss2d_scan(x, strided, A, B, C, D, bias, height=3, width=4, backend="torch_chunked")
    assert torch.equal(y, ss2d_scan(x, dt, A, B, C, D, bias, height=3, width=4, backend="torch_chunked"))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 5), (2, 1, 2)], ids=by_size)
def test_gradcheck(size):
    inputs = grid_inputs(ScanShape.of_grid(2 if len(size) == 2 else 1, size, 2, 2))
    assert torch.autograd.gradcheck(lambda *t: selective_scan(*t, sizes=size, backend="torch_chunked"), inputs)


TWO_ORDERS = (ScanOrder((1, 0, 2)), ScanOrder((2, 1, 0), reverse=True))


@pytest.mark.parametrize(("sizes", "orders"), [((3, 4), None), ((3, 1, 4), TWO_ORDERS)], ids=["image", "volume"])
def test_opcheck(sizes, orders):
    inputs = grid_inputs(ScanShape(2, sizes, 3, 2, len(orders or range(4))), torch.float32)
    call = (sizes, as_numbers(orders, sizes), "torch_chunked")
    torch.library.opcheck(torch.ops.nnunetv2_dsvm.ss2d_scan.default, (*inputs, *call))
    grad = torch.randn(2, 12, 3)
    detached = [t.detach() for t in inputs]
    torch.library.opcheck(torch.ops.nnunetv2_dsvm.ss2d_scan_backward.default, (grad, *detached, *call))


@pytest.mark.parametrize(("sizes", "orders"), [((3, 4), None), ((3, 1, 4), TWO_ORDERS)], ids=["image", "volume"])
def test_compile_without_a_graph_break(sizes, orders):
    inputs = grid_inputs(ScanShape(2, sizes, 3, 2, len(orders or range(4))), torch.float32)

    def loss(*inputs):
        return selective_scan(*inputs, sizes=sizes, orders=orders).square().sum()

    got = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(*inputs), inputs)
    expected = torch.autograd.grad(loss(*inputs), inputs)
    for name, a, b in zip(NAMES, got, expected, strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_a_scan_in_orders_of_its_own_compiles_without_a_graph_break():
    """Whether it is fused is asked for these orders, and is a constant."""
    scan = DirectionalScan(3, 1, 2, axes=3, orders=TWO_ORDERS)
    scan.reset_scan_parameters()
    x = torch.randn(1, 2, 3, 2, 3)
    compiled = torch.compile(scan.scan, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), scan.scan(x))


def test_chunked_is_deterministic():
    inputs = scan_inputs(2, 5, 7, 4, 8, torch.float32)
    grad = torch.randn(2, 35, 4)
    first, second = (run(inputs, 5, 7, "torch_chunked", grad) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


# --- mamba-ssm's adapter, with a stand-in for its kernel that computes in plain torch in the kernel's layout


def fake_selective_scan_cuda() -> SimpleNamespace:
    def scan(u, delta, A, B, C, D, bias):
        groups = B.shape[1]
        delta = torch.nn.functional.softplus(delta + bias[:, None])
        B, C = (t.repeat_interleave(u.shape[1] // groups, dim=1) for t in (B, C))
        state, outputs = torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype), []
        for t in range(u.shape[2]):
            state = torch.exp(delta[:, :, t, None] * A) * state + (delta * u)[:, :, t, None] * B[..., t]
            outputs.append((state * C[..., t]).sum(-1) + D * u[:, :, t])
        return torch.stack(outputs, dim=-1)

    def fwd(u, delta, A, B, C, D, z, bias, softplus):
        assert z is None and softplus and all(t.is_contiguous() for t in (u, delta, A, B, C, D, bias))
        return [scan(u, delta, A, B, C, D, bias), "states"]

    def bwd(u, delta, A, B, C, D, z, bias, dout, states, out, dz, softplus, recompute):
        assert states == "states" and out is None and softplus and not recompute
        inputs = [t.double().requires_grad_() for t in (u, delta, A, B, C, D, bias)]
        grads = torch.autograd.grad(scan(*inputs), inputs, dout.double())
        return [g.to(t.dtype) for g, t in zip(grads, inputs, strict=True)]

    return SimpleNamespace(fwd=fwd, bwd=bwd)


def test_mamba_adapter_layouts(monkeypatch):
    """The adapter's permutations, both ways, on a CPU; the real kernel is checked by `benchmark` on a GPU."""
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", fake_selective_scan_cuda())
    backend = MambaSSM()
    inputs = scan_inputs(2, 3, 5, 4, 3, torch.float32)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn(2, 15, 4)
    call = ScanInputs(*(t.detach() for t in inputs), (3, 5))
    expected_y, expected = run(exact, 3, 5, "reference", grad.double())
    assert relative_error(backend.forward(call, save=True)[0], expected_y) < 1e-5
    for name, a, b in zip(NAMES, backend.backward(grad, call, None), expected, strict=True):
        assert relative_error(a, b) < 1e-5, name


# --- what is refused


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_shape_is_named(name):
    inputs = dict(zip(NAMES, scan_inputs(1, 2, 3, 2, 2), strict=True))
    inputs[name] = inputs[name][..., :-1] if name != "A" else inputs[name][:3]
    with pytest.raises(ValueError, match="shape|tokens"):
        ss2d_scan(*inputs.values(), height=2, width=3)


def test_height_and_width_must_fit():
    with pytest.raises(ValueError, match=r"4 \* 2"):
        ss2d_scan(*scan_inputs(1, 2, 3, 2, 2), height=4, width=2)
