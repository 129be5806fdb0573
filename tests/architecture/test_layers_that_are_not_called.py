"""Layers whose weights are computed with elsewhere than in a call of theirs, where somebody watches or changes them."""

import copy
from collections.abc import Callable

import pytest
import torch
from helpers.tiny_relatives import TINY
from torch import nn
from torch.nn.utils import parametrizations, prune

from nnunetv2_dsvm.architecture.relatives.msvm_unet import MSVMUNet
from nnunetv2_dsvm.architecture.vm_unet import VMUNet

SIZES = {"dims": (16, 32), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 1}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "VMUNet": lambda: VMUNet(1, 2, **SIZES, drop_path_rate=0.5),
    "without a scan": lambda: VMUNet(1, 2, **SIZES, drop_path_rate=0.5, scan=False),
    "MSVMUNet": lambda: MSVMUNet(1, 2, **TINY["MSVMUNet"]),
}
IMAGE = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=NETWORKS)
def network(request) -> nn.Module:
    """Of weights so large that the logits depend on each layer."""
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.3)
    return network


def _convolutions(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_taps_see_every_convolution_and_stochastic_depth(network):
    seen = set()
    torch.manual_seed(1)
    expected = network.train()(IMAGE)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) or name.endswith("drop_path"):
            module.register_forward_hook(lambda *_, name=name: seen.add(name))
    hooked = {name for name, module in network.named_modules() if module._forward_hooks}
    torch.manual_seed(1)
    torch.testing.assert_close(network(IMAGE), expected, rtol=1e-3, atol=1e-4)
    assert seen == hooked


def test_pruned_weights_learn(network):
    """Their masks are applied by hooks, before each call."""
    for layer in _convolutions(network):
        prune.l1_unstructured(layer, "weight", 0.5)
    optimizer = torch.optim.SGD(network.train().parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(IMAGE).square().mean().backward()
        assert all(layer.weight_orig.grad is not None for layer in _convolutions(network))
        optimizer.step()
    expected = network.eval()(IMAGE)
    for layer in _convolutions(network):
        prune.remove(layer, "weight")
    torch.testing.assert_close(network(IMAGE), expected, rtol=1e-3, atol=1e-4)


def test_weights_that_are_computed(network):
    """The norms of weights double here what the layers' own weights are."""
    expected = copy.deepcopy(network.eval())
    for layer in _convolutions(expected):
        layer.weight.data *= 2
    for layer in _convolutions(network):
        parametrizations.weight_norm(layer).parametrizations.weight.original0.data *= 2
    torch.testing.assert_close(network(IMAGE), expected(IMAGE), rtol=1e-3, atol=1e-4)


def test_what_is_around_the_image(network):
    """Its edge, here: as if the layers were called, and not zeros."""
    with_zeros = network.eval()(IMAGE)
    for layer in _convolutions(network):
        layer.padding_mode = "replicate" if layer.groups > 1 and layer.kernel_size == (3, 3) else "zeros"
    repeated = network(IMAGE)
    assert not torch.allclose(repeated, with_zeros, rtol=1e-2, atol=1e-2)
    for layer in _convolutions(network):
        layer.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(network(IMAGE), repeated, rtol=1e-3, atol=1e-4)


def test_another_layer_in_the_place_of_stochastic_depth(network):
    expected = network.eval()(IMAGE)
    for module in network.train().modules():
        if hasattr(module, "drop_path"):
            module.drop_path = nn.Identity()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    assert torch.equal(network(IMAGE), expected)
