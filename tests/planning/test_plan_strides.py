"""Strides of a VM-UNet of volumes from those of nnU-Net's plans, and the networks that follow."""

import pytest
import torch

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan

H, W = [2, 2, 2], [1, 2, 2]  # halved along all axes, and in the slices alone

# Of nnU-Net 2.8.1's planner: patch, steps; then the patch embedding, grids of each stage, and millions of parameters of
# the published dims and depths, whose deepest stages are left out.
PLANS = {
    "LiTS": ((128, 128, 128), [H, H, H, H, H], (4, 4, 4), [(32, 32, 32), (16, 16, 16), (8, 8, 8), (4, 4, 4)], 33.5),
    "BTCV": ((48, 192, 192), [W, H, H, H, W], (2, 4, 4), [(24, 48, 48), (12, 24, 24), (6, 12, 12), (6, 6, 6)], 31.1),
    "ACDC, 5 mm": ((20, 256, 224), [W, H, H, W, W], (2, 4, 4),
                   [(10, 64, 56), (5, 32, 28), (5, 16, 14), (5, 8, 7)], 30.5),
    "ACDC, 10 mm": ((10, 256, 224), [W, W, H, W, W], (1, 4, 4),
                    [(10, 64, 56), (5, 32, 28), (5, 16, 14), (5, 8, 7)], 30.5),
    "Hippocampus": ((40, 56, 40), [H, H, H], (2, 2, 2), [(20, 28, 20), (10, 14, 10), (5, 7, 5)], 9.0),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_grids_and_parameters_of_published_data_sets(name):
    patch, steps, embedding, grids, millions = PLANS[name]
    strides = strides_of_plan([[1, 1, 1], *steps])
    with torch.device("meta"):
        network = VMUNet.from_preset("base", 1, 3, strides=strides)
    stages = network.encoder_stages
    assert stages[0].stride == embedding and all(n % s == 0 for n, s in zip(patch, stages[-1].stride, strict=True))
    assert [tuple(n // s for n, s in zip(patch, stage.stride, strict=True)) for stage in stages] == grids
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("steps", "strides"),
    [
        ([H] * 7, [[4, 4, 4], H, H, H]),  # four stages at most
        ([W, H, H, H], [[2, 4, 4], H, H]),
        ([W, H, H], [W, H, H]),
        ([H], [H]),
    ],
    ids=["7 steps", "4 steps", "3 steps", "1 step"],
)
def test_fewer_than_four_steps_and_many(steps, strides):
    assert strides_of_plan([[1, 1, 1], *steps]) == [[1, 1, 1], *strides]


def test_plans_that_lower_no_resolution_are_refused():
    with pytest.raises(ValueError, match="a step or more"):
        strides_of_plan([[1, 1, 1]])
