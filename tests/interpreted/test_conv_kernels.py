"""The convolution's Triton kernels: output and gradients against torch's in fp64; a second time, the same bits."""

import pytest
import torch
import torch.nn.functional as F
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.fused.depthwise import depthwise_convolution
from nnunetv2_dsvm.ops.testing import TOLERANCE
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings

# batch, height, width, channels; and with a depth in the second place
SIZES = [(1, 1, 1, 3), (3, 1, 7, 12), (1, 5, 1, 40), (3, 7, 9, 3), (1, 3, 5, 192), (3, 5, 4, 1)]
VOLUMES = [(1, 1, 1, 1, 3), (2, 3, 2, 5, 3), (1, 1, 2, 3, 2), (1, 2, 1, 1, 40)]


def by_size(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def in_torch(u, weight, bias, silu):
    convolution = F.conv2d if u.ndim == 4 else F.conv3d
    padding = [size // 2 for size in weight.shape[2:]]
    y = convolution(u.movedim(-1, 1), weight, bias, padding=padding, groups=len(weight)).movedim(1, -1)
    return F.silu(y) if silu else y


def assert_matches_torch(size, dtype=torch.float32, kernel=3, silu=True, biased=True, own=True, settings=None):
    fused = Triton(settings).fused
    u, grad = (torch.randn(size).to(dtype) for _ in range(2))
    channels = size[-1]
    weight = torch.randn(channels, 1, *[kernel] * (len(size) - 2))
    bias = torch.randn(channels) if biased else None

    def call(own):
        mine = grad.clone()
        gradients = fused.convolution_backward(mine, u, weight, bias, silu, own)
        assert own or torch.equal(mine, grad)
        return [fused.convolution_forward(u, weight, bias, silu), *gradients][: 4 if biased else 3]

    got, again = call(own), call(True)
    exact = [t.double().requires_grad_() for t in (u, weight, bias) if t is not None]
    y = in_torch(*exact[:2], exact[2] if biased else None, silu)
    expected = y, *torch.autograd.grad(y, exact, grad.double())
    dtypes = (dtype, dtype, torch.float32, torch.float32)
    for name, ours, same, right, kind in zip(("y", "u", "weight", "bias"), got, again, expected, dtypes, strict=False):
        assert ours.shape == right.shape and ours.dtype == kind, name
        assert relative_error(ours, right) <= TOLERANCE[dtype], name
        assert torch.equal(ours, same), name
    assert len(got) == len(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("size", SIZES, ids=by_size)
def test_convolution(size, dtype):
    assert_matches_torch(size, dtype)


@pytest.mark.parametrize("size", VOLUMES, ids=by_size)
def test_convolution_of_volumes(size):
    assert_matches_torch(size, torch.bfloat16 if size[-1] == 2 else torch.float32)


@pytest.mark.parametrize("kernel", [1, 5])
def test_other_kernels(kernel):
    assert_matches_torch((1, 6, 5, 3), kernel=kernel)


@pytest.mark.parametrize(
    ("size", "kernel", "biased", "dtype"),
    [
        ((1, 5, 6, 3), 3, True, torch.float32),
        ((1, 1, 6, 20), 5, False, torch.bfloat16),
        ((1, 2, 2, 2, 3), 3, False, torch.float32),
    ],
)
def test_without_an_activation(size, kernel, biased, dtype):
    """The gradients of images come from one kernel, which leaves that of the result as it is."""
    assert_matches_torch(size, dtype, kernel, silu=False, biased=biased, own=False)


@pytest.mark.parametrize(("size", "kernel"), [((1, 4, 3, 12), 3), ((1, 2, 5, 2), 5), ((1, 2, 1, 2, 2), 3)])
def test_silu_without_a_bias_and_with_a_gradient_of_others(size, kernel):
    assert_matches_torch(size, kernel=kernel, biased=False, own=False)


@pytest.mark.parametrize(
    ("size", "processors", "silu"),
    [((2, 7, 9, 12), 100, True), ((3, 7, 9, 12), 0, True), ((1, 2, 5, 2, 3), 100, True), ((1, 5, 2, 2), 100, False)],
)
def test_few_and_many_programs(size, processors, silu):
    """As on a GPU that one program per few rows, or per image, would leave idle."""
    settings = LaunchSettings(convolution_rows=2, processors=processors)
    assert_matches_torch(size, kernel=3 if silu else 5, silu=silu, settings=settings)


@pytest.mark.parametrize(("activation", "kernel"), [("silu", 3), ("none", 5)])
def test_the_operator(activation, kernel):
    """Of every other channel, with autograd and a fake; in autocast's type; other kernels are torch's to convolve."""
    x = torch.randn(1, 2, 4, 6)[..., ::2].requires_grad_()
    weight, bias = torch.randn(3, 1, kernel, kernel).requires_grad_(), torch.randn(3).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    y, expected = depthwise_convolution(x, weight, bias, activation), in_torch(*exact, activation == "silu")
    assert relative_error(y, expected) <= 1e-5
    grad = torch.randn(y.shape)
    grads = torch.autograd.grad(y, (x, weight, bias), grad), torch.autograd.grad(expected, exact, grad.double())
    for name, got, right in zip(("x", "weight", "bias"), *grads, strict=True):
        assert relative_error(got, right) <= 1e-5, name
    call = x.detach(), weight.detach(), None, activation == "silu", "triton"
    operator = torch.ops.nnunetv2_dsvm.depthwise_convolution
    torch.library.opcheck(operator.default, call, test_utils=("test_schema", "test_faketensor"))
    call = torch.randn(y.shape), *call
    operator = torch.ops.nnunetv2_dsvm.depthwise_convolution_backward
    torch.library.opcheck(operator.default, call, test_utils=("test_schema", "test_faketensor"))
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise_convolution(x, weight, bias, activation).dtype == torch.bfloat16
        assert depthwise_convolution(x.double(), *exact[1:], activation).dtype == torch.float64
    strided = torch.randn(6)[::2]
    assert relative_error(depthwise_convolution(x, weight, strided), in_torch(x, weight, strided, False)) <= 1e-5
    assert depthwise_convolution(x[:0], weight, bias, activation).shape == (0, 2, 4, 3)
    for other in (weight[:2], weight.expand(-1, 2, -1, -1)):  # not of x's channels, nor of one each
        with pytest.raises(RuntimeError, match="[Gg]iven (groups|weight)|groups"):
            depthwise_convolution(x, other)
    wide = torch.randn(3, 1, kernel, 7)
    assert torch.equal(depthwise_convolution(x, wide, None, activation), in_torch(x, wide, None, activation == "silu"))
