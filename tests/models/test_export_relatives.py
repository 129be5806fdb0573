"""`nnUNetv2_dsvm export` of the networks beside VM-UNet."""

import pytest
import torch
from helpers.model_folder import write_model_folder
from helpers.sequence_networks import light_m_unet, u_mamba
from helpers.tiny_relatives import ONE_LAYER, TINY
from torch import nn

from nnunetv2_dsvm import export
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES, class_path
from nnunetv2_dsvm.architecture.relatives.u_mamba import UMambaBot, UMambaEnc
from nnunetv2_dsvm.models.export import formats
from nnunetv2_dsvm.models.export.metadata import describe
from nnunetv2_dsvm.models.export.traceable_network import TraceableNetwork
from nnunetv2_dsvm.models.trained_network import load_trained_network

pytestmark = pytest.mark.usefixtures("one_thread")

# Tracing takes seconds a block: one layer, U-Mamba's whose tokens are channels, and the least in 3D.
_STAGES = {"n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1], "features_per_stage": [4, 8]}
ONE_SIZE = {**_STAGES, "kernel_sizes": [[3, 3]] * 2, "strides": [[1, 1], [2, 2]], "patch_size": [5, 4]}
VOLUMES = {"strides": [[1, 1, 1], [1, 2, 2]], "channels": 8, "encoder_blocks": [0, 0], "decoder_blocks": [1]}
FILES = {
    "ASPVMUNet.pt2": (ONE_LAYER, [(2, 37, 65), (1, 1, 1)]),
    "UMambaEnc.onnx": (ONE_SIZE, [(3, 5, 4)]),
    "LightMUNet.pt2": (VOLUMES, [(2, 3, 5, 17), (1, 1, 1, 1)]),
}
SHAPES = [(2, 37, 65), (1, 1, 3)]
IN_3D = {
    "UMambaBot": lambda: u_mamba(UMambaBot, 3),
    "UMambaEnc": lambda: u_mamba(UMambaEnc, 3),
    "LightMUNet": lambda: light_m_unet(3),
}


def with_large_scans(network):
    """As initialised, a scan is less than the rounding of what is added to it."""
    for name, parameter in network.named_parameters():
        if name.endswith(("x_proj", "dt_proj", "in_proj.weight", "out_proj.weight")):
            nn.init.normal_(parameter, std=0.5)
    return network.eval()


def assert_near(logits, expected, tolerance=1e-5):
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("name", [*TINY, *(f"{name}, 3D" for name in IN_3D)])
def test_the_traceable_copy_has_the_networks_numbers(name):
    name, _, volumes = name.partition(", ")
    network = with_large_scans(IN_3D[name]() if volumes else RELATIVES[name].network(1, 2, **TINY[name])).double()
    copied = TraceableNetwork(network).double()
    with torch.no_grad():
        copied.load_state_dict({f"network.{key}": value for key, value in network.state_dict().items()})
        for batch, *sizes in SHAPES:
            image = torch.randn(batch, 1, *([3] if volumes else []), *sizes, dtype=torch.float64)
            assert_near(copied(image), network(image), 1e-9)


@pytest.mark.parametrize("file", FILES)
def test_a_file_computes_what_the_network_computes(tiny_dataset, tmp_path, file):
    name, _, suffix = file.partition(".")
    arguments, shapes = FILES[file]
    network, plans = with_large_scans(RELATIVES[name].network(1, 3, **arguments)), tiny_dataset.load_plans()
    patch_size, configuration = [5, 4] if network.axes == 2 else [3, 5, 4], "2d" if network.axes == 2 else "3d_fullres"
    plans["configurations"][configuration] = plans["configurations"]["2d"] | {
        "patch_size": patch_size,
        "spacing": [1.0] * network.axes,
        "architecture": {
            "network_class_name": class_path(type(network)),
            "arch_kwargs": arguments,
            "_kw_requires_import": [],
        },
    }
    folder = write_model_folder(
        tmp_path / "model", network, plans, tiny_dataset.load_dataset_json(), configuration, relative=name
    )
    format = "onnx" if suffix == "onnx" else "torch-export"
    assert export(folder, tmp_path / file, fold=0, format=format).difference < 1e-5
    run = formats.load(tmp_path / file, format)
    for batch, *sizes in shapes:
        image = torch.randn(batch, 1, *sizes)
        with torch.inference_mode():
            assert_near(run(image), network(image))
    metadata = describe(load_trained_network(folder, 0))
    assert metadata["only_size"] == ([5, 4] if name == "UMambaEnc" else None)
    assert ("5×4 height, width and no others" in metadata["input"]) == (name == "UMambaEnc")
