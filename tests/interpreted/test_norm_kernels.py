"""The LayerNorm's Triton kernels, gated, against torch's operators in fp64."""

import pytest
import torch
import torch.nn.functional as F
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.ops.layer_norm import layer_norm


@pytest.mark.parametrize("channels", [6, 24])
def test_norm(channels):
    """A multiple of 8 channels is loaded in units of 8."""
    wide = torch.randn(7, 2 * channels)
    inputs = [torch.randn(7, channels) * 3 + 1, torch.randn(channels), torch.randn(channels), wide[:, channels:]]
    inputs = [t.requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y = layer_norm(*inputs[:3], 1e-5, gate=inputs[3])
    expected = F.layer_norm(exact[0], (channels,), exact[1], exact[2], 1e-5) * F.silu(exact[3])
    assert relative_error(y, expected) <= 1e-5
    grad = torch.randn(7, channels)
    grads = torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, exact, grad.double())
    for name, got, right in zip(("x", "weight", "bias", "gate"), *grads, strict=True):
        assert relative_error(got, right) <= 1e-5, name
