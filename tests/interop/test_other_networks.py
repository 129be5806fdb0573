"""The names of stages that the README gives for other packages' networks, on these networks (extra `interop`)."""

import re
from pathlib import Path

import pytest
import torch

from nnunetv2_dsvm.distillation import DualSelfDistillation, FeatureTaps, describe_stages

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def dyn_unet():
    strides = [1, 2, 2, 2, (1, 2, 2), (1, 2, 2)]
    network = pytest.importorskip("monai.networks.nets").DynUNet(
        3, 1, 2, [3] * 6, strides, strides[1:], filters=[2, 4, 4, 8, 8, 8], deep_supervision=True
    )
    levels = [(4, 4, 4), (8, 8, 8), (8, 16, 16), (8, 32, 32)]
    return network, (8, 64, 64), levels, levels[:-1]


def swin_unetr():
    network = pytest.importorskip("monai.networks.nets").SwinUNETR(
        in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=2
    )
    levels = [(4, 4), (8, 8), (16, 16), (32, 32)]
    return network, (64, 64), [*levels[:2], levels[-1]], levels[:-1]


def smp_unet():
    network = pytest.importorskip("segmentation_models_pytorch").Unet(
        "resnet18", encoder_weights=None, in_channels=1, classes=2
    )
    levels = [(4, 4), (8, 8), (16, 16), (32, 32)]
    return network, (64, 64), levels, levels[:-1]


@pytest.mark.parametrize(
    ("row", "build"),
    [("MONAI's DynUNet", dyn_unet), ("MONAI's SwinUNETR", swin_unetr), ("pytorch's Unet", smp_unet)],
    ids=["DynUNet", "SwinUNETR", "smp-Unet"],
)
def test_the_readme_s_names_are_stages(row, build, one_thread):
    network, size, *strides = build()
    (line,) = (line for line in README.splitlines() if line.startswith("|") and row in line)
    names = [re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[2:4]]
    image = torch.randn(2, 1, *size)
    stages = describe_stages(network, *names, image[:1])
    assert [[stage.stride for stage in side] for side in stages] == strides
    with torch.no_grad():
        plain = network.eval()(image)
    keys = list(network.state_dict())
    distillation = DualSelfDistillation.from_stages(*stages)
    FeatureTaps(network, *names)
    output = network.train()(image)
    shapes = [[tuple(f.shape) for f in side] for side in output[1:]]
    assert shapes == [
        [(2, s.channels, *(n // step for n, step in zip(size, s.stride, strict=True))) for s in side] for side in stages
    ]
    terms = distillation(output.encoder_features, output.decoder_features)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in distillation.parameters())
    assert next(p for p in network.parameters() if p.requires_grad).grad.norm() > 0
    network.eval()
    assert list(network.state_dict()) == keys and type(network(image)) is type(plain)
