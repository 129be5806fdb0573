"""From plans to a network and back: the names and sizes that users' plans hold."""

from pydoc import locate

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.planning.network_of_plans import NETWORKS, planned_network, vm_unet_architecture

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


def test_nnunets_own_networks_get_the_published_size_and_others_are_refused():
    nnunets = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    assert planned_network(configuration(nnunets, n_stages=6)) == (VMUNet, PRESETS["base"])
    with pytest.raises(UserValueError, match=r"the network theirs\.Net, which is none of this package's .* nnU-Net's"):
        planned_network(configuration("theirs.Net"))
