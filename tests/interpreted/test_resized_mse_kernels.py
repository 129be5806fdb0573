"""The fused resize and squared error: value and gradient against torch's operators in fp64, alone and in the terms."""

import pytest
import torch
import torch.nn.functional as F
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.distillation import DualSelfDistillation, distances, pairs
from nnunetv2_dsvm.distillation.features import project
from nnunetv2_dsvm.ops.dispatch import fused_backend
from nnunetv2_dsvm.ops.fused.projected_mse import projected_mse
from nnunetv2_dsvm.ops.fused.resized_mse import resized_mse, supports
from nnunetv2_dsvm.ops.triton import resized_mse as launches

# Interpreted, the conversion to bf16 cuts digits off.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
# batch, channels, student's height and width, scales
SHAPES = {
    "same_size": (2, 12, 3, 7, 1, 1),
    "twice": (1, 96, 3, 2, 2, 2),
    "four_times": (2, 12, 2, 5, 4, 4),
    "eight_times": (1, 5, 3, 2, 8, 8),
    "odd": (2, 3, 4, 3, 3, 5),
    "one_axis": (1, 4, 3, 4, 1, 2),
    "many_rows": (1, 3, 11, 2, 2, 1),  # a block of pixels and a part of one
    "one_row": (2, 12, 1, 4, 4, 2),
    "one_column": (1, 4, 3, 1, 2, 3),
    "one_pixel": (2, 1, 1, 1, 8, 1),
}


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A (B, C, H, W) view of channels-last memory that does not begin with it, as features are."""
    batch, channels, height, width = shape
    return torch.randn(batch + 1, height, width, channels).to(dtype)[1:].permute(0, 3, 1, 2)


def expected(student: torch.Tensor, teacher: torch.Tensor, upstream: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient by torch in fp64."""
    exact = student.detach().double().requires_grad_()
    enlarged = F.interpolate(exact, teacher.shape[2:], mode="bilinear", align_corners=False)
    value = F.mse_loss(enlarged, teacher.double())
    return value, torch.autograd.grad(value * upstream, exact)[0]


def assert_matches_torch(student: torch.Tensor, teacher: torch.Tensor, upstream: float = 1.0) -> None:
    assert supports(student, teacher)
    student = student.detach().requires_grad_()
    value = resized_mse(student, teacher)
    (gradient,) = torch.autograd.grad(value * upstream, student)
    right_value, right_gradient = expected(student, teacher, upstream)
    assert value.dtype == torch.float32
    assert relative_error(value, right_value) <= 1e-5  # of 16-bit maps too: fp32 inside
    assert relative_error(gradient, right_gradient) <= TOLERANCE[student.dtype]
    again = resized_mse(student, teacher)
    (gradient_again,) = torch.autograd.grad(again * upstream, student)
    assert torch.equal(value, again) and torch.equal(gradient, gradient_again)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes(monkeypatch, shape):
    """With one program that takes all blocks of pixels in turn; in the other tests each has one."""
    monkeypatch.setattr(launches, "PROGRAMS", 1)
    batch, channels, height, width, scale_y, scale_x = shape
    student = channels_last(batch, channels, height, width)
    teacher = channels_last(batch, channels, height * scale_y, width * scale_x)
    assert_matches_torch(student, teacher, upstream=3000.0)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_maps_of_16_bit(dtype, scale):
    student = channels_last(2, 12, 3, 2, dtype=dtype)
    assert_matches_torch(student, channels_last(2, 12, 3 * scale, 2 * scale, dtype=dtype))


def test_maps_of_two_types_and_in_other_memory():
    student, teacher = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 6, 8)
    assert_matches_torch(student, teacher)  # channels first
    assert_matches_torch(student, teacher[..., ::2])
    assert_matches_torch(student, channels_last(2, 6, 6, 8, dtype=torch.bfloat16))
    assert_matches_torch(student.half(), teacher)


def test_gradients_that_fp16_holds_only_scaled():
    """As in AMP; and maps whose difference exceeds fp16's range."""
    student = 1e-4 * torch.randn(2, 6, 3, 4).half()
    assert_matches_torch(student, torch.zeros(2, 6, 6, 8).half(), upstream=2.0**16)
    far = 6e4 * torch.ones(1, 4, 2, 2).half()
    assert_matches_torch(far, -far)


def test_operators_keep_the_rules_of_torch():
    """What torch.compile and autograd rely on: schema, fake tensors and gradients, by torch's own checks."""
    student, teacher = channels_last(1, 4, 2, 3), channels_last(1, 4, 4, 6, dtype=torch.bfloat16)
    student.requires_grad_()
    backend = fused_backend(student.device, student.dtype)
    operators = torch.ops.nnunetv2_dsvm
    torch.library.opcheck(operators.resized_mse.default, (student, teacher, backend))
    torch.library.opcheck(
        operators.resized_mse_backward.default, (torch.tensor(2.0), student.detach(), teacher, backend)
    )


def make_terms(sizes: list[tuple[int, int]]) -> tuple[DualSelfDistillation, list[torch.Tensor], list[torch.Tensor]]:
    """The module, and encoder and decoder features."""
    dims = [6, 8, 12]
    encoder, decoder = ([channels_last(2, c, *size) for c, size in zip(dims, sizes, strict=True)] for _ in range(2))
    return DualSelfDistillation(dims, dims), encoder, decoder


@pytest.mark.parametrize(
    ("sizes", "alone", "together", "autocast"),
    [
        ([(4, 8), (2, 4), (1, 2)], 0, [5, 4], False),
        ([(4, 8), (2, 4), (1, 2)], 0, [5, 4], True),
        ([(5, 3), (3, 2), (2, 1)], 3, [], False),  # only those pairs whose maps have one size
    ],
    ids=["whole_scales", "whole_scales_bf16", "other_scales"],
)
def test_terms(monkeypatch, sizes, alone, together, autocast):
    """Both terms against themselves in fp64, which is torch's path; so many of the 9 pairs on each operator."""
    on_operator, on_joint_operator = 0, []

    def counted(student, teacher):
        nonlocal on_operator
        on_operator += 1
        return resized_mse(student, teacher)

    def counted_together(pairs):
        on_joint_operator.append(len(pairs))
        assert all(pair.student.dtype == torch.bfloat16 or not autocast for pair in pairs)
        return projected_mse(pairs)

    monkeypatch.setattr(distances, "resized_mse", counted)
    monkeypatch.setattr(pairs, "projected_mse", counted_together)
    module, *features = make_terms(sizes)
    features[0][0] = features[0][0].contiguous()  # a network's may have channels first
    features = [[f.requires_grad_() for f in side] for side in features]
    exact = DualSelfDistillation(*[[f.shape[1] for f in side] for side in features]).double()
    exact.load_state_dict(module.state_dict())
    exact_features = [[f.detach().double().requires_grad_() for f in side] for side in features]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        values = module(*features)
        assert torch.is_autocast_enabled("cpu") == autocast
    assert (on_operator, on_joint_operator) == (alone, together)
    right = exact(*exact_features)
    tolerance = TOLERANCE[torch.bfloat16 if autocast else torch.float32]
    for name, value in values.items():
        assert value.dtype == torch.float32
        assert relative_error(value, right[name]) <= tolerance, name
    sum(values.values()).backward()
    sum(right.values()).backward()
    students = [features[0], features[1][1:]], [exact_features[0], exact_features[1][1:]]
    for got, wanted in zip(*([f for side in sides for f in side] for sides in students), strict=True):
        assert relative_error(got.grad, wanted.grad) <= tolerance
    for (name, p), q in zip(module.named_parameters(), exact.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) <= tolerance, name


def test_terms_without_gradients():
    """Values as with gradients; features that need none get none, also where others do."""
    module, encoder, decoder = make_terms([(4, 8), (2, 4), (1, 2)])
    with torch.no_grad():
        plain = module(encoder, decoder)
    encoder[1].requires_grad_()
    values = module(encoder, decoder)
    for name, value in values.items():
        assert value.requires_grad and relative_error(value.detach(), plain[name].double()) <= 1e-6, name
    sum(values.values()).backward()
    assert [f.grad is None for f in encoder + decoder] == [True, False, True, True, True, True]


def test_projections_on_another_device_are_torchs_to_refuse():
    """The operator's conversions would copy the weights from there without a word."""
    module, *features = make_terms([(1, 2), (1, 1), (1, 1)])
    with pytest.raises(RuntimeError, match="device meta is not on the expected device"):
        module.to("meta")(*features)


def test_a_penalty_on_the_gradients_is_refused():
    """It would be a constant to autograd: no upstream gradient of a sum of losses requires one itself."""
    module, encoder, decoder = make_terms([(1, 2), (1, 1), (1, 1)])
    decoder[1].requires_grad_()
    for value in module(encoder, decoder).values():
        (gradient,) = torch.autograd.grad(value, decoder[1], create_graph=True)
        assert gradient.isfinite().all()
        with pytest.raises(RuntimeError, match="_ProjectedMSEBackward.*differentiated again"):
            (value + gradient.square().sum()).backward()


def test_fp16_does_not_overflow():
    """Features of 60,000: their projections exceed fp16's 65,504, and so must not be of fp16."""
    module, *features = make_terms([(4, 8), (2, 4), (1, 2)])
    features = [[(60000 * f.sign()).half() for f in side] for side in features]
    with torch.autocast("cpu", dtype=torch.float16):
        for name, value in module(*features).items():
            assert value.isfinite() and value > 65504, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_3d_maps_are_projected_in_bf16_whatever_the_autocast(dtype):
    """Where fused operators are, as on a GPU; features of 60,000 as above, and gradients as in AMP."""
    dims, sizes = [6, 8, 12], [(4, 4, 6), (2, 2, 3), (1, 2, 3)]
    features = [[torch.randn(2, c, *s) for c, s in zip(dims, sizes, strict=True)] for _ in range(2)]
    module = DualSelfDistillation(dims, dims, dims=3)
    exact = DualSelfDistillation(dims, dims, dims=3).double()
    exact.load_state_dict(module.state_dict())
    sides = [[f.to(dtype).requires_grad_() for f in side] for side in features]
    exact_sides = [[f.detach().double().requires_grad_() for f in side] for side in sides]
    with torch.autocast("cpu", dtype=dtype):
        assert project(module.terms["projection"].encoder_projections[0], sides[0][0]).dtype == torch.bfloat16
        values = module(*sides)
        large = module(*[[(60000 * f.sign()).half() for f in side] for side in features])
    assert all(value.isfinite() and value > 65504 for value in large.values())
    right = exact(*exact_sides)
    for terms in (values, right):
        (1000 * sum(terms.values())).backward()
    for name, value in values.items():
        assert relative_error(value, right[name]) <= 1e-2, name
    for got, wanted in zip([*sides[0], *sides[1][1:]], [*exact_sides[0], *exact_sides[1][1:]], strict=True):
        assert got.grad.dtype == dtype and relative_error(got.grad, wanted.grad) <= 2e-2
    for (name, p), q in zip(module.named_parameters(), exact.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) <= 2e-2, name
