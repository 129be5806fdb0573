"""Networks with one-dimensional Mamba, and the atrous scan: what neither the official numbers nor the contract show."""

import re

import pytest
import torch
from helpers.golden_files import read_golden
from helpers.places import DATA
from helpers.sequence_networks import TWO_STAGES, U_MAMBAS, check_goes_as_in_fp32, light_m_unet, losses_of, u_mamba
from torch import nn

from nnunetv2_dsvm.architecture.blocks.mamba_1d import Mamba
from nnunetv2_dsvm.architecture.relatives import of_plans
from nnunetv2_dsvm.architecture.relatives.asp_vmunet import ASPVMUNet
from nnunetv2_dsvm.architecture.relatives.light_m_unet import LightMUNet
from nnunetv2_dsvm.architecture.relatives.u_mamba import UMambaBot, UMambaEnc
from nnunetv2_dsvm.ops.scan_order import atrous_orders


def sequence_networks(axes, **options):
    return [u_mamba(UMambaBot, axes, **options), u_mamba(UMambaEnc, axes, **options), light_m_unet(axes, **options)]


def test_mamba_looks_at_the_past_alone_and_computes_in_fp32_whatever_autocast_says():
    mamba, norm = Mamba(6), nn.LayerNorm(6)
    tokens = torch.randn(2, 19, 6)
    expected = mamba(tokens, norm)
    later = tokens.clone()
    later[:, 11:] = torch.randn(2, 8, 6)
    torch.testing.assert_close(mamba(later, norm)[:, :11], expected[:, :11])
    assert not torch.allclose(mamba(later, norm)[:, 11:], expected[:, 11:])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mamba(tokens, norm), expected)
        assert mamba(tokens.bfloat16(), norm).dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 9, 7)], ids=str)
def test_volumes_of_any_size_are_padded_with_zeros_and_cropped_back(size):
    image = torch.randn(2, 1, *size)
    depth, height, width = (-(-n // step) * step for n, step in zip(size, (1, 2, 2), strict=True))
    padded = torch.zeros(2, 1, depth, height, width)
    padded[:, :, : size[0], : size[1], : size[2]] = image
    for network in sequence_networks(3):
        logits = network.train()(image)  # with a single position at the bottom, where torch's instance norm stops
        expected = network(padded)[:, :, : size[0], : size[1], : size[2]]
        assert logits.shape == (2, 2, *size) and torch.equal(logits, expected)


def test_a_network_with_channel_tokens_takes_its_planned_size_alone():
    network = u_mamba(UMambaEnc, 2, patch_size=[3, 8])  # 2 * 4 positions for 8 channels at the second stage
    assert network.encoder.mamba_layers["1"].over_channels
    for size in ((4, 8), (3, 8), (4, 7)):  # what is padded to 4×8
        assert network(torch.randn(1, 1, *size)).shape == (1, 2, *size)
    for size in ((8, 4), (2, 16), (6, 8)):  # the first two have as many positions
        with pytest.raises(ValueError, match=re.escape(f"planned size 3×8 alone, got {size[0]}×{size[1]}")):
            network(torch.randn(1, 1, *size))
    assert not any(
        layer.over_channels for layer in u_mamba(UMambaEnc, 2, patch_size=[6, 8]).encoder.mamba_layers.values()
    )


def test_the_atrous_orders_are_the_official_ones():
    """-1 in the file: a token that stands outside of the image, a zero of the padding here."""
    golden = read_golden(DATA / "relatives" / "ASPVMUNet_golden.npz")
    for height, width, step in ((6, 6, 2), (5, 7, 2), (5, 7, 3)):
        padded = [-(-size // step) * step for size in (height, width)]
        inside = torch.full(padded, -1)
        inside[:height, :width] = torch.arange(height * width).view(height, width)
        ours = torch.stack([inside.flatten()[order.tokens(padded)] for order in atrous_orders(2, step)])
        assert torch.equal(ours, golden.tensors[f"scan_order_{height}x{width}_step{step}"].long())


@pytest.mark.parametrize("network", U_MAMBAS, ids=lambda c: c.__name__)
def test_a_training_in_bf16_stays_finite_and_goes_as_in_fp32(network):
    losses = []
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(1)
        losses.append(losses_of(u_mamba(network, 2), dtype))
    check_goes_as_in_fp32(*losses)


def test_arguments_from_nnunets_plans():
    u_net = {
        "features_per_stage": [32, 64, 128, 256, 320],
        "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * 4],
        "strides": [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 3],
        "n_conv_per_stage": [2] * 5,
        "n_conv_per_stage_decoder": [2] * 4,
        "conv_op": "torch.nn.modules.conv.Conv3d",
    }
    of_u_mamba = of_plans.u_mamba(u_net, [40, 224, 192])
    assert of_u_mamba == {**{k: u_net[k] for k in u_net if k != "conv_op"}, "patch_size": [40, 224, 192]}
    residual = {**u_net, "n_blocks_per_stage": [1, 3, 4, 6, 6], "n_conv_per_stage_decoder": [1] * 4}
    del residual["n_conv_per_stage"]
    assert of_plans.u_mamba(residual, [40, 224, 192]) == of_u_mamba
    light = of_plans.light_m_unet(u_net, [40, 224, 192])
    assert light == {"strides": u_net["strides"][:4], "encoder_blocks": (1, 2, 2, 4), "decoder_blocks": (1, 1, 1)}
    shallow = of_plans.light_m_unet({**u_net, "strides": u_net["strides"][:3]}, [40, 224, 192])
    assert shallow == {"strides": u_net["strides"][:3], "encoder_blocks": (1, 2, 2), "decoder_blocks": (1, 1)}
    vm_unet = {"dims": [96, 192], "strides": [[1, 1], [4, 4], [2, 2]]}
    assert of_plans.light_m_unet(vm_unet, [64, 64])["strides"] == [[1, 1], [2, 2], [2, 2], [2, 2]]
    with pytest.raises(ValueError, match="plans describe another network"):
        of_plans.u_mamba(vm_unet, [64, 64])


def test_sizes_that_do_not_fit_together_are_refused():
    shape = {"kernel_sizes": [[3, 3]] * 2, "strides": [[1, 1], [2, 2]], "patch_size": [32, 32]}
    for wrong, reason in (
        ({"features_per_stage": [4, 8, 16]}, "one entry a stage"),
        ({"n_conv_per_stage_decoder": [1, 1]}, "one less"),
        ({"strides": [[2, 2], [2, 2]]}, "the first strides be 1"),
        ({"kernel_sizes": [[3, 3], [3, 3, 3]]}, "all have two numbers or all three"),
        ({"patch_size": [32, 32, 32]}, "patch_size must be the planned one"),
    ):
        with pytest.raises(ValueError, match=reason):
            UMambaEnc(1, 2, **{**TWO_STAGES, **shape, **wrong})
    for wrong, reason in (
        ({"channels": 12}, "multiple of 8"),
        ({"encoder_blocks": (1,)}, "one entry a stage"),
        ({"strides": [[1, 1], [2, 2, 2]]}, "all have two numbers or all three"),
    ):
        sizes = {"strides": [[1, 1], [2, 2]], "encoder_blocks": (1, 1), "decoder_blocks": (1,)}
        with pytest.raises(ValueError, match=reason):
            LightMUNet(1, 2, **{**sizes, **wrong})
    with pytest.raises(ValueError, match="six multiples of 8"):
        ASPVMUNet(1, 2, channels=(8, 16, 24, 32, 48, 60))
