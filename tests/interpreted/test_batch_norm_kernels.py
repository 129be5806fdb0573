"""Batch normalisation, ReLU and a depthwise convolution as one operator on Triton's kernels, against torch in fp64."""

import copy

import pytest
import torch
from helpers.scan_inputs import relative_error
from torch import nn

from nnunetv2_dsvm.architecture.relatives.msvm_unet import MSVMUNet
from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.fused.normalised import normalised_convolution, supports
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchSettings


def layers(channels: int) -> nn.Sequential:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(parameter)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.zeros_(norm.weight[0])  # a channel whose input does not show in its output
    return nn.Sequential(norm, nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, groups=channels))


def fused(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    norm, _, conv = layers
    return normalised_convolution(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, conv.weight, conv.bias,
        training=norm.training, momentum=norm.momentum, eps=norm.eps,
    )  # fmt: skip


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("size", [(2, 5, 6, 3), (1, 1, 6, 20)], ids=str)
def test_norm_and_convolution(size, training):
    """Output, gradients and running statistics, of a mean as large as ten deviations; twice the same bits."""
    ours = layers(size[-1]).train(training)
    exact = copy.deepcopy(ours).double()
    inputs = [(3 + 0.3 * torch.randn(size)).requires_grad_(), *ours.parameters()]
    wide = inputs[0].detach().double().requires_grad_()
    again = copy.deepcopy(ours)
    y, expected = fused(ours, inputs[0]), exact(wide.movedim(-1, 1)).movedim(1, -1)
    grad = torch.randn(y.shape)
    got = [y, *torch.autograd.grad(y, inputs, grad), *ours[0].buffers()]
    right = [expected, *torch.autograd.grad(expected, [wide, *exact.parameters()], grad.double()), *exact[0].buffers()]
    for name, a, b in zip(("y", "x", "gamma", "beta", "weight", "bias", "mean", "var"), got, right, strict=False):
        assert a.shape == b.shape and relative_error(a, b) <= 1e-5, name
    same = fused(again, inputs[0])
    assert torch.equal(same, y)


def test_statistics_of_a_large_mean_by_many_programs():
    """Their squares differ in the last digits of fp32 alone."""
    x = 1000 + torch.randn(3, 40, 9, 7)
    for processors in (1, 100):
        mean, var = Triton(LaunchSettings(processors=processors)).fused.batch_statistics(x)
        exact = torch.var_mean(x.double(), (0, 1, 2), correction=0)
        assert relative_error(var, exact[0]) <= 1e-5 and relative_error(mean, exact[1]) <= 1e-6


def test_the_operator():
    """Its fakes; what is no number stays none; sizes that are torch's to refuse or to convolve."""
    norm, _, conv = layers(2)
    x = torch.randn(1, 2, 3, 2).bfloat16()
    statistics = norm.running_mean, norm.running_var, norm.weight.detach(), norm.bias.detach()
    of_conv = conv.weight.detach(), conv.bias.detach()
    operators, utils = torch.ops.nnunetv2_dsvm, ("test_schema", "test_faketensor")
    for operator, call in (
        (operators.batch_statistics, (x, "triton")),
        (operators.normalised_convolution, (x, *statistics, 1e-5, *of_conv, True, "triton")),
        (operators.normalised_convolution_backward, (x, x, *statistics, *of_conv, 1e-5, True, "triton")),
    ):
        torch.library.opcheck(operator.default, call, test_utils=utils)
    x[0, 1, 1] = torch.nan
    assert fused(layers(2), x).isnan().all()
    assert fused(layers(2).eval(), x).isnan().any((0, 1, 2)).all()
    assert not supports(x[:, :1, :1], conv.weight) and not supports(x.double(), conv.weight)
    assert not supports(x, torch.randn(2, 1, 5, 5))


@pytest.mark.parametrize("change", ["statistics stay", "none", "not affine", "no bias", "strided"])
def test_other_norms_of_the_expanding_layer(change):
    """Running statistics that are switched off stay as they are; what is not there is torch's to leave out."""
    tiny = {"dims": (2, 4, 8, 16), "encoder_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1)}
    layer = MSVMUNet(1, 2, **tiny).decoder.expandings[0]
    norm = layer.batch_norm
    if change == "statistics stay":
        norm.track_running_stats = False
    elif change == "none":
        layer.batch_norm = nn.BatchNorm2d(norm.num_features, track_running_stats=False)
    elif change == "not affine":
        layer.batch_norm = nn.BatchNorm2d(norm.num_features, affine=False)
    elif change == "no bias":
        layer.conv.bias = None
    else:
        norm.bias, layer.conv.bias = (nn.Parameter(torch.randn(norm.num_features, 2)[:, 1]) for _ in range(2))
        norm.running_mean = torch.randn(norm.num_features, 2)[:, 1]
    exact, x = copy.deepcopy(layer).double(), torch.randn(1, 2, 1, 16)
    for training in (True, False):
        y, expected = layer.train(training)(x), exact.train(training)(x.double())
        assert relative_error(y, expected) <= 1e-5
        for (name, ours), right in zip(layer.named_buffers(), exact.buffers(), strict=True):
            assert torch.allclose(ours.double(), right.double(), rtol=1e-5, atol=1e-6), name


def test_the_expanding_layer():
    """MSVM-UNet's, whose first convolution is a product here, against itself in fp64, where torch does it all.

    It counts its batches in training alone. For a mean of all batches the norm is torch's again.
    """
    tiny = {"dims": (2, 4, 8, 16), "encoder_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1)}
    layer = MSVMUNet(1, 2, **tiny).decoder.expandings[0]
    exact = copy.deepcopy(layer).double()
    x = torch.randn(1, 2, 3, 16).requires_grad_()
    wide = x.detach().double().requires_grad_()
    y, expected = layer(x), exact(wide)
    grad = torch.randn(y.shape)
    grads = torch.autograd.grad(y, [x, *layer.parameters()], grad)
    exact_grads = torch.autograd.grad(expected, [wide, *exact.parameters()], grad.double())
    names = ("y", "x", *(name for name, _ in layer.named_parameters()))
    for name, got, right in zip(names, (y, *grads), (expected, *exact_grads), strict=True):
        if name != "expand.bias":  # the norm takes its mean away: what is left are roundings
            assert relative_error(got, right) <= 1e-5, name
    assert layer.batch_norm.num_batches_tracked == 1
    expected = exact.eval()(wide)
    assert relative_error(layer.eval()(x), expected) <= 1e-5
    assert layer.batch_norm.num_batches_tracked == 1
    layer.batch_norm.momentum = None
    assert relative_error(layer(x), expected) <= 1e-5
    assert layer.eval()(x[:0]).shape == expected[:0].shape
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer.train()(x[:, :1, :1])
