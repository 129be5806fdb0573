"""Hooks on layers that the fused operators compute without calling them: they run, and change nothing."""

import copy

import pytest
import torch
from helpers.scan_inputs import relative_error
from torch import nn

from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.architecture.relatives.msvm_unet import MSVMUNet

SIZES = {"dims": (2, 4, 8, 16), "encoder_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1)}


def _calls(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, set[str], set[str]]:
    """The output, the layers within that were called, and all with weights."""
    called, inside = set(), set()
    for path, module in layer.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d | nn.LayerNorm):
            module.register_forward_hook(lambda *_, path=path: called.add(path))
            inside.add(path)
    return layer(x), called, inside


@pytest.mark.parametrize(("name", "channels"), [("stages.2.blocks.0.ffn", 2), ("expandings.1", 8)])
def test_of_msvm_unet(name, channels):
    layer = MSVMUNet(1, 2, **SIZES).decoder.get_submodule(name)
    x = torch.randn(1, 3, 4, channels)
    expected = copy.deepcopy(layer)(x)
    y, called, inside = _calls(layer, x)
    assert relative_error(y, expected) <= 1e-5
    assert called == inside


def test_an_expanding_layer_with_other_norms_and_without_a_bias():
    """As in fp64, which is torch's."""
    x = torch.randn(1, 3, 4, 8)
    for norm, bias in ({"track_running_stats": False}, True), ({"affine": False}, True), ({}, False):
        layer = MSVMUNet(1, 2, **SIZES).decoder.expandings[1]
        layer.batch_norm = nn.BatchNorm2d(16, **norm)
        layer.conv = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=bias)
        assert relative_error(layer(x), copy.deepcopy(layer).double()(x.double())) <= 1e-5


def test_of_vm_unet():
    """With a hook the block is composed of its layers; the norm behind the scan is computed with the gate alone."""
    block = VSSBlock(4, d_state=1)
    block.ss2d.scan = torch.ones_like  # in a composed block alone: the scan of the fused operator is no method
    _, called, inside = _calls(block, torch.randn(1, 3, 4, 4))
    assert called == inside - {"ss2d.out_norm"}
