"""The LayerNorm's Triton kernels: gated, of another resolution, of the scan's directions; against torch in fp64."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.ops.layer_norm import layer_norm
from nnunetv2_dsvm.ops.resampling import Resampling
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


@pytest.mark.parametrize("merging", [True, False])
@pytest.mark.parametrize(
    ("coarse", "step", "channels"),
    [((3, 5), (2, 2), 8), ((2, 3), (4, 1), 6), ((2, 3, 2), (2, 2, 2), 6), ((3, 2, 3), (1, 2, 4), 8)],
)
def test_norm_of_another_resolution(coarse, step, channels, merging):
    """Each axis has its own step, a first one of 1 counts as images."""
    fine = [size * factor for size, factor in zip(coarse, step, strict=True)]
    of_row = math.prod(step) * channels
    sizes, width = ((fine, channels) if merging else (coarse, of_row)), (of_row if merging else channels)
    inputs = [torch.randn(3, *sizes[0], sizes[1]) * 3 + 1, torch.randn(width), torch.randn(width)]
    inputs = [t.requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y = layer_norm(*inputs, 1e-5, resampling=Resampling(step, merging))
    expected = F.layer_norm(resampled(exact[0], coarse, step, merging), (width,), exact[1], exact[2], 1e-5)
    assert y.shape == expected.shape
    call = (*(t.detach() for t in inputs), None, 1e-5, torch.bfloat16, "triton", step, merging)
    torch.library.opcheck(
        torch.ops.nnunetv2_dsvm.layer_norm.default, call, test_utils=("test_schema", "test_faketensor")
    )
    assert relative_error(y, expected) <= 1e-5
    grad = torch.randn(y.shape)
    grads = torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, exact, grad.double())
    for name, got, right in zip(("x", "weight", "bias"), *grads, strict=True):
        assert relative_error(got, right) <= 1e-5, name


@pytest.mark.parametrize(("sizes", "step", "merging"), [((4, 4, 30), (2, 2), False), ((4, 5, 8), (2, 2), True)])
def test_what_has_no_whole_steps_is_refused(sizes, step, merging):
    """Not written beyond the result's memory."""
    resampling = Resampling(step, merging)
    weights = torch.ones(2, resampling.shape((1, *sizes))[-1])
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        layer_norm(torch.randn(1, *sizes), *weights, 1e-5, resampling=resampling)


def resampled(x, coarse, step, merging):
    """One token of the finer grid after the other: merging counts along the first axis fastest, expanding the last."""
    channels = x.shape[-1] if merging else x.shape[-1] // math.prod(step)
    offsets = list(itertools.product(*map(range, step)))
    if merging:
        parts = [x[(slice(None), *(slice(o, None, s) for o, s in zip(offset, step, strict=True)))] for offset in
                 sorted(offsets, key=lambda offset: offset[::-1])]  # fmt: skip
        return torch.cat(parts, -1)
    y = x.new_empty(len(x), *(size * factor for size, factor in zip(coarse, step, strict=True)), channels)
    for offset, part in zip(offsets, x.split(channels, -1), strict=True):
        y[(slice(None), *(slice(o, None, s) for o, s in zip(offset, step, strict=True)))] = part
    return y
