"""From nnU-Net's plans to a relative: the published size or the plans' own, and what is refused."""

import json

import pytest
import torch
from helpers.tiny_relatives import TINY
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES, class_path
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.planning.relative_of_plans import build_relative, check_batch, in_words

TWO_DIMENSIONAL = [name for name, relative in RELATIVES.items() if relative.dimensions == (2,)]
PARAMETERS = {"VMUNetV2": 13_822_100, "MSVMUNet": 35_924_737}  # three channels, one class


@pytest.fixture
def configuration(tiny_dataset):
    """configuration(architecture, name="2d"): of nnU-Net's plans for the tiny dataset, with a network if given."""
    plans = json.loads((tiny_dataset.preprocessed / "nnUNetPlans.json").read_text())

    def of(architecture=None, name="2d"):
        if architecture is not None:
            plans["configurations"][name]["architecture"] = architecture
        return PlansManager(plans).get_configuration(name)

    return of


@pytest.mark.parametrize("name", PARAMETERS)
def test_plans_of_another_network_give_the_published_size(configuration, name):
    planned = configuration()
    with torch.device("meta"):
        network = build_relative(name, planned, 3, 1, deep_supervision=False, auxiliary_heads=False)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    words = in_words(name, planned, network)
    assert f"{PARAMETERS[name]:,} parameters: the published size, and not the PlainConvUNet that the plans" in words


@pytest.mark.parametrize("name", TINY)
def test_plans_that_name_it_give_their_own_size(configuration, name):
    path = class_path(RELATIVES[name].network)
    planned = configuration({"network_class_name": path, "arch_kwargs": TINY[name], "_kw_requires_import": []})
    with torch.device("meta"):
        network = build_relative(name, planned, 2, 3, deep_supervision=True, auxiliary_heads=True)
    expected = RELATIVES[name].network(2, 3, deep_supervision=True, **TINY[name])
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }
    assert "as the plans ask" in in_words(name, planned, network)


@pytest.mark.parametrize("name", TWO_DIMENSIONAL)
def test_volumes_are_refused(configuration, name):
    with pytest.raises(UserValueError, match=r"supports 2D configurations only.*3D patch size.*'2d'"):
        build_relative(name, configuration(name="3d_fullres"), 1, 2, deep_supervision=False, auxiliary_heads=False)


def test_sizes_that_do_not_fit_are_refused(configuration):
    path = class_path(RELATIVES["MSVMUNet"].network)
    for arguments in ({"dims": [8, 16]}, {"width": 3}):
        planned = configuration({"network_class_name": path, "arch_kwargs": arguments, "_kw_requires_import": []})
        with pytest.raises(UserValueError, match="The plans give no MSVM-UNet"):
            build_relative("MSVMUNet", planned, 1, 2, deep_supervision=False, auxiliary_heads=False)


@pytest.mark.parametrize("name", TWO_DIMENSIONAL)
def test_a_batch_norm_with_one_value_of_each_channel_is_refused(configuration, name):
    """Where the step of such a batch would fail, and only there."""
    path = class_path(RELATIVES[name].network)
    planned = configuration({"network_class_name": path, "arch_kwargs": TINY[name], "_kw_requires_import": []})
    network = build_relative(name, planned, 1, 2, deep_supervision=False, auxiliary_heads=False).train()
    for batch, size in ((2, (32, 32)), (1, (32, 33))):
        network(torch.randn(batch, 1, *size))
        planned.configuration.update(batch_size=batch, patch_size=list(size))
        check_batch(name, planned)
    planned.configuration.update(batch_size=1, patch_size=[32, 32])
    if name.startswith("Swin"):
        network(torch.randn(1, 1, 32, 32))
        check_batch(name, planned)
        return
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 1, 32, 32))
    with pytest.raises(UserValueError, match="batches of 1 patch of 32×32, and .* has batch norms.*--batch-size to 2"):
        check_batch(name, planned)


def test_u_mamba_is_built_of_a_u_net_alone(configuration):
    other = {"network_class_name": class_path(RELATIVES["MSVMUNet"].network), "arch_kwargs": TINY["MSVMUNet"]}
    planned = configuration({**other, "_kw_requires_import": []})
    with pytest.raises(
        UserValueError, match=r"The plans give no U-Mamba Bot: it is built like nnU-Net's U-Net, .*-p nn"
    ):
        build_relative("UMambaBot", planned, 1, 2, deep_supervision=True, auxiliary_heads=True)
