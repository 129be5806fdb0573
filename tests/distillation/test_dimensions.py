"""The terms in one, two and three dimensions: torch's own layers and interpolation in fp64 as the other computation."""

from itertools import pairwise
from typing import Any
from weakref import WeakSet

import pytest
import torch
from helpers.scan_inputs import relative_error
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_dsvm.distillation import DualSelfDistillation, FeatureDistance
from nnunetv2_dsvm.distillation.features import ChannelPooling
from nnunetv2_dsvm.distillation.gradients_ahead import with_gradients_ahead
from nnunetv2_dsvm.distillation.resize import pool_averages, resize_linearly

CHANNELS = [4, 6, 5]
SIZES = {
    "1d": [(12,), (6,), (2,)],
    "1d-odd": [(9,), (5,), (1,)],
    "2d": [(8, 12), (4, 6), (2, 3)],
    "3d": [(8, 4, 8), (4, 2, 4), (2, 1, 2)],
    "3d-anisotropic": [(3, 8, 12), (3, 4, 6), (3, 2, 3)],
    "3d-odd": [(5, 9, 3), (3, 5, 3), (2, 3, 1)],
}
IMAGE = [48, 48, 24]
CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOLING = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
MODE = {1: "linear", 2: "bilinear", 3: "trilinear"}


def maps(sizes, seed=0, dtype=torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(2, c, *s, generator=random, dtype=torch.float64) for c, s in zip(CHANNELS, sizes, strict=True)]
    return [f.to(dtype).requires_grad_() for f in drawn]


def by_torch(
    distillation: nn.Module, encoder: list[Tensor], decoder: list[Tensor], kind: str, mask=None
) -> list[Tensor]:
    """L_proj and L_prog of the method, pair by pair."""
    dims = encoder[0].ndim - 2

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = F.interpolate(student, teacher.shape[2:], mode=MODE[dims]), teacher.detach()
        if kind == "mse":
            each = (student - teacher).square().mean(1)
        else:
            log_s, log_t = (student / 2).log_softmax(1), (teacher / 2).log_softmax(1)
            each = 4 * F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)
        if mask is None:
            return each.mean()
        share = POOLING[dims](mask, teacher.shape[2:])[:, 0]
        return (each * share).sum() / share.sum()

    def projected(layer: nn.Module, x: Tensor) -> Tensor:
        if isinstance(layer, ChannelPooling):
            return F.adaptive_avg_pool1d(x.flatten(2).mT, layer.channels).mT.unflatten(2, x.shape[2:])
        return CONVOLUTION[dims](x, layer.weight, layer.bias)

    term = distillation.terms["projection"]
    layers = [*term.encoder_projections, *term.decoder_projections]
    global_ = [distance(projected(p, f), decoder[0]) for p, f in zip(layers, [*encoder, *decoder[1:]], strict=True)]
    term = distillation.terms["progressive"]
    down = zip(term.encoder_projections, pairwise(encoder), strict=True)
    local = [distance(projected(p, POOLING[dims](s, t.shape[2:])), t) for p, (s, t) in down]
    up = zip(term.decoder_projections, pairwise(decoder), strict=True)
    local += [distance(projected(p, s), t) for p, (t, s) in up]
    return [torch.stack(pairs).mean() for pairs in (global_, local)]


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(
    ("kind", "projection"),
    [("mse", "convolution"), ("kl", "convolution"), ("mse", "pooling")],
    ids=["mse", "kl", "pooling"],
)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_values_and_gradients_are_those_of_torchs_layers(sizes, kind, projection, masked):
    encoder, decoder, dims = maps(sizes, 1), maps(sizes, 2), len(sizes[0])
    options = {"distance": kind, "projection": projection, "temperature": 2.0}
    distillation = DualSelfDistillation(CHANNELS, CHANNELS, **options, dims=dims).double()
    mask = (torch.rand(2, 1, *IMAGE[:dims], dtype=torch.float64) > 0.7).double() if masked else None
    values = distillation(encoder, decoder, mask)
    expected = by_torch(distillation, encoder, decoder, kind, mask)
    torch.testing.assert_close([values["projection"], values["progressive"]], expected, rtol=1e-10, atol=0)
    inputs = [*encoder, *decoder, *distillation.parameters()]
    got, wanted = (
        torch.autograd.grad(3 * a + 0.1 * b, inputs, allow_unused=True) for a, b in (values.values(), expected)
    )
    assert got[3] is None and wanted[3] is None  # f^d_1 only teaches
    torch.testing.assert_close(got[:3] + got[4:], wanted[:3] + wanted[4:], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((4, 5, 6), (4, 10, 24)),
        ((1, 1, 3), (4, 3, 5)),
        ((20, 3, 6), (41, 24, 23)),
        ((5, 7, 4), (7, 4, 9)),
        ((64, 2, 3), (256, 5, 3)),
        ((7,), (16,)),
    ],
    ids=["whole", "ones", "odd", "up-and-down", "long", "1d"],
)
@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
def test_resizing_and_pooling_are_torchs(small, large, last):
    x, y = torch.randn(2, 3, *small), torch.randn(2, 3, *large)
    if last:
        x, y = (t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (x, y))
    dims = len(small)
    exact = F.interpolate(x.double(), large, mode=MODE[dims], align_corners=False)
    assert (resize_linearly(x, large) - exact).abs().max() <= 2e-7 * exact.abs().max()
    exact = POOLING[dims](y.double(), small)
    assert (pool_averages(y, small) - exact).abs().max() <= 2e-7 * exact.abs().max()


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.shapes: list[tuple[str, Any]] = []  # of the first tensor of each call

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        self.shapes.append((function.name(), getattr(args[0], "shape", None) if args else None))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("projection", ["convolution", "pooling"])
@pytest.mark.parametrize("sizes", [v for k, v in SIZES.items() if k != "2d"], ids=[k for k in SIZES if k != "2d"])
def test_no_operator_adds_up_in_an_order_of_chance(sizes, projection):
    """torch.use_deterministic_algorithms names those with such kernels for GPUs: interpolation, pooling, scattering."""
    encoder, decoder, dims = maps(sizes, 1), maps(sizes, 2), len(sizes[0])
    distillation = DualSelfDistillation(CHANNELS, CHANNELS, projection=projection, dims=dims).double()
    mask = torch.ones(2, 1, *IMAGE[:dims], dtype=torch.float64)
    with _Operators() as operators:
        sum(distillation(encoder, decoder, mask).values()).backward()
    assert "aten::bmm" in operators.names
    assert not {n for n in operators.names if any(s in n for s in ("upsample", "pool", "scatter", "index", "put"))}


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_only_maps_of_a_students_size_wait_for_the_backward(kind):
    """Of teacher and students, 2 x 4 x 16^3 and 2 x 4 x 4^3: nothing as large as the teacher but the teacher itself."""
    student, teacher = torch.randn(2, 4, 4, 4, 4, requires_grad=True), torch.randn(2, 4, 16, 16, 16)

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    kept: WeakSet[Kept] = WeakSet()

    def keep(tensor: Tensor) -> Kept:
        box = Kept(tensor)
        kept.add(box)
        return box

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda box: box.tensor):
        value = FeatureDistance(kind)(student, teacher)
    assert value.requires_grad and sum(box.tensor.numel() for box in kept) == student.numel()


def test_a_teacher_of_several_students_is_centred_once():
    """Four of the global term's five stages are smaller than their teacher."""
    encoder, decoder = maps(SIZES["3d"], 1), maps(SIZES["3d"], 2)
    distillation = DualSelfDistillation(CHANNELS, CHANNELS, terms=["projection"], dims=3).double()
    with _Operators() as operators:
        distillation(encoder, decoder)
    assert operators.shapes.count(("aten::mean.dim", decoder[0].shape)) == 1


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_large_maps_with_a_large_mean_keep_their_digits(offset):
    """In fp32; the maps differ by a hundredth of what they vary by."""
    teacher = torch.randn(1, 2, 64, 64, 64)
    student = F.avg_pool3d(teacher, 2).double() + offset
    teacher = F.interpolate(student, (64, 64, 64), mode="trilinear") + 0.01 * teacher
    exact = (F.interpolate(student.float().double(), (64, 64, 64), mode="trilinear") - teacher.float()).square().mean()
    value = FeatureDistance()(student.float(), teacher.float())
    assert abs(value - exact) <= 1e-3 * exact


def test_a_penalty_on_gradients_ahead_is_refused():
    """It would be a constant to autograd, and so missing from the gradient without a word."""
    student = torch.randn(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        with_gradients_ahead(lambda x: x.square().sum(), student), student, create_graph=True
    )
    assert torch.equal(gradient, 2 * student)
    with pytest.raises(RuntimeError, match="_WithGradientsAheadBackward.*differentiated again"):
        gradient.square().sum().backward()


def test_gradients_ahead_are_there_whatever_needs_one():
    a, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    inputs = [a, torch.randn(3, dtype=torch.float64), b]
    assert torch.autograd.gradcheck(
        lambda *x: with_gradients_ahead(lambda p, q, r: (p * q * r.exp()).sum(), *x), inputs
    )
    with torch.no_grad():
        assert not with_gradients_ahead(torch.dot, a, b).requires_grad


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("options", [{}, {"distance": "kl"}, {"projection": "pooling"}], ids=str)
def test_16_bit_maps_in_3d_have_the_terms_and_gradients_of_fp32(options, dtype, autocast):
    encoder, decoder = maps(SIZES["3d"], 1, dtype), maps(SIZES["3d"], 2, dtype)
    distillation = DualSelfDistillation(CHANNELS, CHANNELS, dims=3, **options)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        values = distillation(encoder, decoder)
    exact = [[f.detach().float().requires_grad_() for f in side] for side in (encoder, decoder)]
    expected = distillation(*exact)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=0)
    for terms in (values, expected):
        (1000 * sum(terms.values())).backward()
    for got, wanted in zip([*encoder, *decoder[1:]], [*exact[0], *exact[1][1:]], strict=True):
        assert got.grad.dtype == dtype
        assert relative_error(got.grad, wanted.grad) <= (1e-3 if dtype == torch.float16 else 1e-2)


def test_gradients_that_fp16_holds_only_scaled():
    """As in AMP: 2 * 1e-4 / 8192 is less than fp16's smallest number."""
    student, teacher = 1e-4 * torch.randn(2, 4, 8, 4, 4), torch.zeros(2, 4, 8, 16, 8)
    half, exact = student.half().requires_grad_(), student.half().double().requires_grad_()
    (2.0**16 * FeatureDistance()(half, teacher.half())).backward()
    (2.0**16 * FeatureDistance()(exact, teacher.double())).backward()
    assert relative_error(half.grad, exact.grad) <= 1e-3


def test_terms_of_large_fp16_maps_in_3d_are_finite():
    encoder, decoder = ([(2000 * f.detach().sign()).half() for f in maps(SIZES["3d-odd"], seed)] for seed in (1, 2))
    with torch.autocast("cpu", dtype=torch.float16):
        values = DualSelfDistillation(CHANNELS, CHANNELS, dims=3)(encoder, decoder)
    assert all(value.isfinite() and value > 1000 for value in values.values())


@pytest.mark.filterwarnings("error:Dynamo")
def test_compiled_in_one_piece_the_terms_are_the_same():
    encoder, decoder = maps(SIZES["3d-odd"], 1), maps(SIZES["3d-odd"], 2)
    distillation = DualSelfDistillation(CHANNELS, CHANNELS, dims=3).double()
    inputs = [*encoder, *distillation.parameters()]
    results = [
        run(encoder, decoder) for run in (distillation, torch.compile(distillation, backend="eager", fullgraph=True))
    ]
    gradients = [torch.autograd.grad(sum(values.values()), inputs) for values in results]
    torch.testing.assert_close(*results, rtol=1e-10, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_differentiated_by_torch_compile_maps_of_unlike_memory_orders_have_their_gradients():
    """In 2D the students' channels are last in memory."""
    encoder, decoder = (maps(SIZES["2d"], seed)[:2] for seed in (1, 2))
    distillation = DualSelfDistillation(CHANNELS[:2], CHANNELS[:2], terms=["projection"]).double()
    gradients = []
    for run in (distillation, torch.compile(distillation, backend="aot_eager", fullgraph=True)):
        gradients.append(torch.autograd.grad(run(encoder, decoder)["projection"], [*encoder, decoder[1]]))
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_maps_of_another_number_of_axes_are_refused():
    flat = maps(SIZES["2d"])
    with pytest.raises(ValueError, match=r"\(2, 4, 8, 12\).*3D maps \(B, C, D, H, W\)"):
        DualSelfDistillation(CHANNELS, CHANNELS, dims=3)(flat, flat)
    with pytest.raises(ValueError, match="dims=4"):
        DualSelfDistillation(CHANNELS, CHANNELS, dims=4)
    with pytest.raises(ValueError, match=r"\(2, 4, 9\).*number of axes"):
        FeatureDistance()(torch.zeros(2, 4, 9), torch.zeros(2, 4, 9, 9))
