"""The convolution's Triton kernels: output and gradients against torch's in fp64; a second time, the same bits."""

import pytest
import torch
import torch.nn.functional as F
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.testing import TOLERANCE
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings

# batch, height, width, channels; and with a depth in the second place
SIZES = [(1, 1, 1, 3), (3, 1, 7, 12), (1, 5, 1, 40), (3, 7, 9, 3), (1, 3, 5, 192), (3, 5, 4, 1)]
VOLUMES = [(1, 1, 1, 1, 3), (2, 3, 2, 5, 3), (1, 1, 2, 3, 2), (1, 2, 1, 1, 40)]


def by_size(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def assert_matches_torch(size, dtype=torch.float32, kernel=3, settings=None):
    fused = Triton(settings).fused
    u, grad = (torch.randn(size).to(dtype) for _ in range(2))
    channels = size[-1]
    axes = len(size) - 2
    weight, bias = torch.randn(channels, 1, *[kernel] * axes), torch.randn(channels)
    got, again = (
        (fused.conv_silu_forward(u, weight, bias), *fused.conv_silu_backward(grad.clone(), u, weight, bias))
        for _ in range(2)
    )
    exact = [t.double().requires_grad_() for t in (u, weight, bias)]
    convolution = F.conv2d if axes == 2 else F.conv3d
    convolved = convolution(exact[0].movedim(-1, 1), exact[1], exact[2], padding=kernel // 2, groups=channels)
    active = F.silu(convolved).movedim(1, -1)
    expected = active, *torch.autograd.grad(active, exact, grad.double())
    dtypes = (dtype, dtype, torch.float32, torch.float32)
    names = ("active", "u", "weight", "bias")
    for name, ours, same, right, kind in zip(names, got, again, expected, dtypes, strict=True):
        assert ours.shape == right.shape and ours.dtype == kind, name
        assert relative_error(ours, right) <= TOLERANCE[dtype], name
        assert torch.equal(ours, same), name


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


@pytest.mark.parametrize(("size", "processors"), [((2, 7, 9, 12), 100), ((3, 7, 9, 12), 0), ((1, 2, 5, 2, 3), 100)])
def test_few_and_many_programs(size, processors):
    """As on a GPU that one program per few rows, or per image, would leave idle."""
    assert_matches_torch(size, settings=LaunchSettings(convolution_rows=2, processors=processors))
