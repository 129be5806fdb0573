"""The layers around the relatives' scans, on the Triton kernels: output and gradients against torch's scan in fp64."""

import copy

import pytest
import torch
from helpers.tiny_relatives import TINY
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.ops.testing import AUTOCAST_TOLERANCE, compare

# Together they have every kind of layer but the VSS block, which test_scan_kernels.py has.
NAMES = ("MSVMUNet", "UMambaBot", "LightMUNet", "ASPVMUNet")


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return RELATIVES[name].network(1, 2, **TINY[name], scan_backend="torch_chunked").double().eval()


def layers_that_scan(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if any(isinstance(child, DirectionalScan) for child in m.children())]


def smallest_calls(network: nn.Module, image: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Of each kind of layer the one with the smallest input, and that input, when the network runs."""
    found: dict[type, tuple[nn.Module, Tensor]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        if type(layer) not in found or x.numel() < found[type(layer)][1].numel():
            found[type(layer)] = layer, x

    notes = [layer.register_forward_pre_hook(note) for layer in layers_that_scan(network)]
    with torch.no_grad():
        network(image)
    for handle in notes:
        handle.remove()
    return list(found.values())


def with_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], grad.to(y))]


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_scan(name):
    for exact, x in smallest_calls(build(name), torch.randn(1, 1, 8, 12, dtype=torch.float64)):
        layer = copy.deepcopy(exact).float()
        for scan in layer.modules():
            if isinstance(scan, DirectionalScan):
                scan.scan_backend = "triton"
        names = ["output", "input", *(parameter for parameter, _ in layer.named_parameters())]
        what, tolerance = f"{type(layer).__name__} of {name}", AUTOCAST_TOLERANCE[torch.float32]
        compare(what, names, with_gradients(layer, x.float()), with_gradients(exact, x), tolerance)


def test_no_kind_of_layer_is_missing():
    kinds = {name: {type(layer) for layer in layers_that_scan(build(name))} for name in RELATIVES}
    assert all(kinds.values()) and set().union(*kinds.values()) == {VSSBlock}.union(*(kinds[n] for n in NAMES))
