"""The LayerNorm's Triton kernels, gated, and after the sum of the scan's directions, against torch's in fp64."""

import pytest
import torch
import torch.nn.functional as F
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.ops.layer_norm import layer_norm
from nnunetv2_dsvm.ops.testing import TOLERANCE
from nnunetv2_dsvm.ops.triton.layer_norm import merge_norm_forward


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


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("directions", "channels"), [(4, 6), (6, 40), (1, 1)])
def test_norm_of_merged_directions(directions, channels, kind):
    """Of rows that several programs share; the sum is rounded once, and the norm is of the rounded one."""
    parts_kind = torch.float32 if kind == torch.float16 else kind
    parts = torch.randn(3, 15, directions, channels).to(parts_kind) + 1
    skip, gate = torch.randn(3, 15, 2 * channels).to(kind)[..., :channels], torch.randn(3, 15, channels).to(kind)
    scale, weight, bias = torch.randn(directions, channels).to(kind), torch.randn(channels), torch.randn(channels)
    out, merged = merge_norm_forward(parts, skip, scale, weight, bias, gate, 1e-3, kind, True)
    assert out.dtype == kind and merged.dtype == parts_kind
    assert relative_error(merged, parts.double().sum(2) + skip.double() * scale.double().sum(0)) <= TOLERANCE[kind]
    norm = F.layer_norm(merged.double(), (channels,), weight.double(), bias.double(), 1e-3)
    assert relative_error(out, norm * F.silu(gate.double())) <= TOLERANCE[kind]
    inference = merge_norm_forward(parts, skip, scale, weight, bias, gate, 1e-3, kind, False)
    assert torch.equal(inference[0], out) and inference[1] is None
