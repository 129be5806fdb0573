"""From plans to a network and back: the names and sizes that users' plans hold."""

from dataclasses import replace
from pydoc import locate

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.planning.network_of_plans import NETWORKS, in_words, planned_network, vm_unet_architecture
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

NAME = "nnunetv2_dsvm.architecture.vm_unet.VMUNet"


def configuration(name: str, **arguments) -> ConfigurationManager:
    architecture = {"network_class_name": name, "arch_kwargs": arguments, "_kw_requires_import": []}
    return ConfigurationManager({"patch_size": [64, 64], "architecture": architecture})


def test_users_plans_find_the_class_by_its_name():
    assert {NAME: VMUNet} == NETWORKS and locate(NAME) is VMUNet
    assert planned_network(configuration(NAME, dims=[8, 16])) == (VMUNet, {"dims": [8, 16]})


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("base", {"dims": [96, 192, 384, 768], "encoder_depths": [2, 2, 2, 2], "decoder_depths": [2, 2, 2, 1]}),
        (
            "small",
            {
                "dims": [16, 32, 64, 128], "encoder_depths": [1, 1, 1, 1], "decoder_depths": [1, 1, 1, 1],
                "d_state": 8, "drop_path_rate": 0.0,
            },
        ),
    ],
    ids=["base", "small"],
)  # fmt: skip
def test_plans_say_what_differs_from_the_defaults(preset, sizes):
    for_nnunets_trainers = {"auxiliary_heads": True, "strides": [[1, 1], [4, 4], [2, 2], [2, 2], [2, 2]]}
    assert vm_unet_architecture(PRESETS[preset]) == {
        "network_class_name": NAME,
        "arch_kwargs": {**sizes, **for_nnunets_trainers},
        "_kw_requires_import": [],
    }


def test_plans_and_the_log_name_the_additions_for_small_structures():
    additions = {"stem": "convolutions", "full_resolution_channels": 24}
    planned = configuration(NAME, dims=[8, 16], encoder_depths=[1, 1], decoder_depths=[1, 1], **additions)
    network = nnUNetTrainerVMUNet.build_network_architecture(None, planned, 1, 2, False)
    assert additions.items() <= vm_unet_architecture(network.sizes)["arch_kwargs"].items()
    assert "and stem convolutions and full_resolution_channels 24 and" in in_words(planned, network)


@pytest.mark.parametrize(
    "name", ["dynamic_network_architectures.architectures.unet.ResidualEncoderUNet", "theirs.networks.Net"]
)
def test_plans_for_another_network_get_the_published_size_and_the_log_says_so(name):
    """As in 0.1.0, whose models with such plans must find their network at inference."""
    planned = configuration(name, n_stages=6)
    with torch.device("meta"):
        network = nnUNetTrainerVMUNet.build_network_architecture(None, planned, 1, 2, False)
    assert isinstance(network, VMUNet) and network.sizes == PRESETS["base"]
    said = f"the published size, and not the {name.rpartition('.')[2]} that the plans describe"
    assert in_words(planned, network).endswith(said)


def test_what_a_class_states_takes_the_place_of_the_plans():
    """Also where it is the published value, and on plans of another network; the plans stay as they are."""
    plain = {"stem": "patches", "full_resolution_channels": 0, "scan": True, "patch_embedding_stride": 4}
    planned = configuration(
        NAME, dims=[8, 16], encoder_depths=[1, 1], decoder_depths=[1, 1], stem="convolutions",
        full_resolution_channels=8, scan=False, strides=[[1, 1], [2, 2], [2, 2]], gradient_checkpointing=True,
    )  # fmt: skip
    network = type("Plain", (nnUNetTrainerVMUNet,), plain).build_network_architecture(None, planned, 1, 2, False)
    assert network.sizes == VMUNetSizes((8, 16), (1, 1), (1, 1))
    assert all(stage.gradient_checkpointing for stage in network.encoder.stages)
    assert planned.network_arch_init_kwargs["scan"] is False
    planned = configuration("theirs.networks.Net", n_stages=6)
    without = type("Without", (nnUNetTrainerVMUNet,), {"scan": False, "patch_embedding_stride": 2})
    with torch.device("meta"):
        network = without.build_network_architecture(None, planned, 1, 2, False)
    assert network.sizes == replace(PRESETS["base"], scan=False).with_patch_embedding_stride(2)
    said = "and strides [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2]] and scan False and"
    assert said in in_words(planned, network) and "the published size, and not the Net" in in_words(planned, network)
