"""Means over windows of maps with channels last: values and gradients against torch's pooling in fp64."""

import pytest
import torch
import torch.nn.functional as F
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.distillation.resize import pool_averages
from nnunetv2_dsvm.ops.dispatch import fused_backend
from nnunetv2_dsvm.ops.fused import average_pool


@pytest.mark.parametrize(
    ("shape", "window", "dtype"),
    [
        ((2, 40, 4, 6), (2, 2), torch.float32),  # more channels than a program takes
        ((3, 5, 6, 4), (3, 1), torch.bfloat16),
        ((1, 8, 16, 32), (16, 16), torch.float16),
    ],
    ids=["fp32", "bf16", "fp16"],
)
def test_means_over_windows(shape, window, dtype):
    """Maps do not begin with their memory, as features may not."""
    batch, channels, height, width = shape
    memory = torch.randn(batch + 1, height, width, channels).to(dtype)
    features = memory[1:].permute(0, 3, 1, 2).requires_grad_()
    assert average_pool.supports(features, window)
    means = pool_averages(features, (height // window[0], width // window[1]))
    upstream = torch.randn_like(means)
    (grad,) = torch.autograd.grad(means, features, upstream)
    exact = features.detach().double().requires_grad_()
    right = F.avg_pool2d(exact, window)
    (right_grad,) = torch.autograd.grad(right, exact, upstream.double())
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert means.is_contiguous(memory_format=torch.channels_last) and means.dtype == dtype
    assert relative_error(means, right) <= tolerance and relative_error(grad, right_grad) <= tolerance


def test_operators_keep_the_rules_of_torch():
    features = torch.randn(1, 4, 6, 3).permute(0, 3, 1, 2).requires_grad_()
    backend, operators = fused_backend(features.device, features.dtype), torch.ops.nnunetv2_dsvm
    torch.library.opcheck(operators.average_pool.default, (features, [2, 3], backend))
    torch.library.opcheck(operators.average_pool_backward.default, (features.detach(), [2, 3], backend))


def test_other_maps_are_left_to_torch():
    last = torch.randn(1, 4, 6, 3).permute(0, 3, 1, 2)
    assert not average_pool.supports(last, (3, 3))  # no whole windows
    assert not average_pool.supports(last.contiguous(), (2, 2))
    assert not average_pool.supports(last.double(), (2, 2))
