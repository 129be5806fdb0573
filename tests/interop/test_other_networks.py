"""The names of stages in documentation/distil.md, on the networks of other packages (extra `interop`)."""

import re
from pathlib import Path

import pytest
import torch
from helpers.short_trainers import ShortRun
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.distillation import DualSelfDistillation, FeatureTaps, describe_stages
from nnunetv2_dsvm.training.layers.distilled import DistilledTraining

PAGE = (Path(__file__).parents[2] / "documentation" / "distil.md").read_text(encoding="utf-8")


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
def test_the_page_s_names_are_stages(row, build, one_thread):
    network, size, *strides = build()
    (line,) = (line for line in PAGE.splitlines() if line.startswith("|") and row in line)
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


class TheirTrainer(nnUNetTrainer):
    """A user's, with MONAI's DynUNet, who knows nothing of ours."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        strides = [1, 2, 2]
        return pytest.importorskip("monai.networks.nets").DynUNet(
            2, num_input_channels, num_output_channels, [3] * 3, strides, strides[1:], filters=[4, 8, 8]
        )

    def set_deep_supervision_enabled(self, enabled):
        pass


class Mine(ShortRun, DistilledTraining, TheirTrainer):
    default_num_epochs = 1
    distillation_encoder = ["input_block", "downsamples.0", "bottleneck"]
    distillation_decoder = ["upsamples.1", "upsamples.0"]


def test_a_trainer_of_a_users_own_with_a_network_of_monai_s(make):
    trainer = make(Mine)
    trainer.run_training()
    assert trainer.loss.last_terms["projection"] > 0 and trainer.loss.last_terms["progressive"] > 0
    assert list(trainer.network.state_dict()) == list(
        TheirTrainer.build_network_architecture(None, None, 1, 3).state_dict()
    )
