"""VMUNet.from_nnunet and `nnUNetv2_dsvm export` for volumes."""

import json

import onnx
import pytest
import torch
from helpers.model_folder import write_model_folder

from nnunetv2_dsvm import VMUNet, export
from nnunetv2_dsvm.models.export import formats
from nnunetv2_dsvm.models.export.metadata import KEY
from nnunetv2_dsvm.planning.architecture_entry import architecture_entry

# One stage: tracing takes seconds a block.
STRIDES = [[1, 1, 1], [1, 2, 4]]
SIZES = {"dims": [8], "encoder_depths": [1], "decoder_depths": [1], "d_state": 2, "strides": STRIDES}
SHAPES = [(2, 3, 5, 17), (1, 1, 1, 1), (1, 9, 4, 8)]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tiny_dataset, tmp_path):
    """model(**additions): the folder of a 3D model, and its network."""

    def write(**additions):
        plans = tiny_dataset.load_plans()
        plans["configurations"]["3d_fullres"] = plans["configurations"]["2d"] | {
            "patch_size": [4, 8, 12],
            "spacing": [2.0, 1.0, 1.0],
            "architecture": architecture_entry({**SIZES, **additions}),
        }
        network = VMUNet(1, 3, **{**SIZES, **additions}).eval()
        dataset_json = tiny_dataset.load_dataset_json()
        return write_model_folder(tmp_path / "model", network, plans, dataset_json, "3d_fullres"), network

    return write


def test_from_nnunet_and_onnx_give_the_networks_logits(model, tmp_path):
    folder, network = model()
    loaded, file = VMUNet.from_nnunet(folder, 0), tmp_path / "model.onnx"
    export(folder, file, fold=0, format="onnx")
    run = formats.load(file, "onnx")
    for batch, *sizes in SHAPES:
        image = torch.randn(batch, 1, *sizes)
        with torch.inference_mode():
            logits = network(image)
            assert torch.equal(loaded(image), logits)
        torch.testing.assert_close(run(image), logits, rtol=1e-4, atol=1e-4)
    described = json.loads({entry.key: entry.value for entry in onnx.load(file).metadata_props}[KEY])
    assert described["patch_size"] == [4, 8, 12] and "(batch, channels, depth, height, width)" in described["input"]
    assert described["output"].startswith("logits (batch, classes, depth, height, width)")


@pytest.mark.parametrize(
    "additions",
    [{"stem": "convolutions", "full_resolution_channels": 4}, {"scan": False}, {"fine_channels": 4}],
    ids=str,
)
def test_a_program_with_additions_and_without_scan(model, tmp_path, additions):
    """It is run and compared before it stays."""
    folder, network = model(**additions)
    assert VMUNet.from_nnunet(folder, 0).sizes == network.sizes
    assert export(folder, tmp_path / "model.pt2", fold=0).difference < 1e-5
