"""The trainers by their names: what each states, and the network that it builds."""

import copy
import inspect

import numpy as np
import pytest
import torch
from helpers.short_trainers import SHORT_RELATIVES, assert_equal, build, tiny_architecture
from helpers.tiny_dataset import NETWORK
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.quickstart import trainers
from nnunetv2_dsvm.training import variants
from nnunetv2_dsvm.training.distilled_trainer import nnUNetTrainerDistilled
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.layers.class_settings import NNUNETS
from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.variants import relatives
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {name: module for module in (variants, trainers) for name in module.__all__ if "Trainer" in name}
VARIANTS = [getattr(module, name) for name, module in NAMES.items() if name not in relatives.__all__]
TURNING = "configure_rotation_dummyDA_mirroring_and_inital_patch_size"
FIXED = {TURNING: vars(variants.FixedOrientation)[TURNING]}


WHAT_A_NAME_STATES = {
    "projection": {"distillation_terms": ("projection",)},
    "progressive": {"distillation_terms": ("progressive",)},
    "kl": {"distillation_distance": "kl"},
    "deepSupervision": {"default_deep_supervision": True},
    "frozenEncoder": {"frozen_encoder_epochs": 10},
    "noScan": {"scan": False},
    "fine": {"fine_channels": 32, "drop_path_rate": 0.0},
    "FixedOrientation": FIXED,
    "quickstart": {**FIXED, "default_initial_lr": 3e-3},
    **{f"{epochs}epochs": {"default_num_epochs": epochs} for epochs in (1, 5, 10, 20, 50, 100, 150, 250, 500, 1000)},
}


def test_a_variant_differs_from_its_trainer_in_what_its_name_states_alone():
    for variant in VARIANTS:
        name, *stated = variant.__name__.split("_")
        mains = (nnUNetTrainerDSVM, nnUNetTrainerDistilled, nnUNetTrainerVMUNet)
        main = {trainer.__name__: trainer for trainer in mains}[name]
        added = [base for base in variant.__mro__ if base not in main.__mro__]
        own = {key: value for base in reversed(added) for key, value in vars(base).items() if key[:2] != "__"}
        assert own == {key: value for part in stated for key, value in WHAT_A_NAME_STATES[part].items()}, variant
    assert nnUNetTrainerDSVM.default_num_epochs == nnUNetTrainerVMUNet.default_num_epochs == 300
    assert nnUNetTrainerDSVM.distillation_terms == ("projection", "progressive")


@pytest.mark.parametrize("name", RELATIVES)
def test_a_relative_has_a_trainer_with_its_recipe_and_one_with_the_distillation(name):
    plain, distilled = (getattr(relatives, f"nnUNetTrainer{dsvm}{name}") for dsvm in ("", "DSVM_"))
    assert distilled.__mro__[1:3] == (DistilledTraining, plain)
    assert not {key for cls in (plain, distilled) for key in vars(cls) if key[:2] != "__"}
    recipe, words = RELATIVES[name].recipe, plain.in_short()
    epochs = NNUNETS if recipe.optimiser == "nnU-Net" else str(recipe.num_epochs)
    assert words["terms"] == "" and words["epochs"] == epochs
    assert distilled.in_short() == {**words, "terms": "projection 1, progressive 0.1"}
    assert ("deep supervision" in words["network"]) == recipe.deep_supervision


def test_a_batch_norm_with_one_value_of_each_channel_is_refused_before_a_folder_is_made(make, tmp_path):
    with pytest.raises(UserValueError, match="batches of 1 patch of 32×32, and ASP-VMUNet has batch norms"):
        make(relatives.nnUNetTrainerDSVM_ASPVMUNet, batch_size=1, patch_size=[32, 32])
    assert not (tmp_path / "a").exists()


def test_fixed_orientation_neither_flips_nor_turns_far(make):
    trainer = make(variants.nnUNetTrainerDSVM_5epochs_FixedOrientation, patch_size=[40, 48])
    angles, dummy_2d, patch, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert np.degrees(angles) == pytest.approx((-15, 15)) and not dummy_2d
    assert axes is None and trainer.inference_allowed_mirroring_axes is None
    turned = 40 * np.cos(np.pi / 12) + 48 * np.sin(np.pi / 12)  # how high the patch reaches, turned by 15°
    assert list(patch) == [int(turned / 0.85), int(48 / 0.85)]  # 0.85: nnU-Net's margin for scaling
    turning = make(nnUNetTrainerDSVM, run="b", patch_size=[40, 48])
    angles, _, _, axes = turning.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert np.degrees(angles) == pytest.approx((-180, 180)) and axes == (0, 1)


@pytest.mark.parametrize(("patch_size", "slices"), [((16, 20, 24), "turned"), ((6, 40, 48), "thick")], ids=str)
def test_fixed_orientation_in_3d(make, patch_size, slices):
    trainer = make(
        variants.nnUNetTrainerDSVM_5epochs_FixedOrientation,
        configuration="3d_fullres",
        of_3d={"patch_size": patch_size},
    )
    angles, dummy_2d, patch, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert np.degrees(angles) == pytest.approx((-15, 15)) and dummy_2d == (slices == "thick")
    assert axes is None and trainer.inference_allowed_mirroring_axes is None
    reach = get_patch_size(patch_size, np.pi / 12, np.pi / 12, np.pi / 12, (0.85, 1.25))  # 0.85: nnU-Net's margin
    assert list(patch) == [patch_size[0] if slices == "thick" else reach[0], *reach[1:]]
    turning = make(nnUNetTrainerDSVM, run="b", configuration="3d_fullres", of_3d={"patch_size": patch_size})
    *_, axes = turning.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert axes == (0, 1, 2)


def test_signatures_are_nnunets():
    names = ["plans", "configuration", "fold", "dataset_json", "device"]
    assert list(inspect.signature(nnUNetTrainerDSVM).parameters) == names
    for trainer in (nnUNetTrainerDSVM, variants.nnUNetTrainerDSVM_deepSupervision):
        assert list(inspect.signature(trainer.build_network_architecture).parameters) == [
            "plans_manager",
            "configuration_manager",
            "num_input_channels",
            "num_output_channels",
            "enable_deep_supervision",
        ]


@pytest.mark.parametrize("trainer_class", SHORT_RELATIVES, ids=lambda c: c.__name__)
def test_inference_of_a_relative_is_unchanged_by_the_distillation(tiny_dataset, trainer_class):
    plans = tiny_dataset.load_plans()
    plans["configurations"]["2d"].update(tiny_architecture(trainer_class))
    plain = getattr(relatives, f"nnUNetTrainer{trainer_class.relative}")
    torch.manual_seed(0)
    expected = build(plain, plans).eval()
    torch.manual_seed(0)
    network = build(trainer_class, plans).eval()
    assert str(network) == str(expected) and not network.return_features
    assert_equal(dict(network.state_dict()), dict(expected.state_dict()))
    image = torch.randn(1, 1, 33, 40)
    assert torch.equal(network(image), expected(image))


def test_dsvm_and_vm_unet_are_one_network(tiny_dataset):
    plans = tiny_dataset.load_plans()
    plain = VMUNet(1, 3, **NETWORK)
    for trainer_class in (nnUNetTrainerDSVM, nnUNetTrainerVMUNet, variants.nnUNetTrainerDSVM_kl):
        network = build(trainer_class, plans)
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        assert shapes == {name: value.shape for name, value in plain.state_dict().items()}
        assert str(network) == str(plain) and not network.return_features


def test_plans_of_another_network_get_the_published_size(tiny_dataset):
    plans = tiny_dataset.load_plans()
    network_class_name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = network_class_name
    manager = PlansManager(plans)
    network = nnUNetTrainerDSVM.build_network_architecture(manager, manager.get_configuration("2d"), 3, 1, False)
    assert sum(p.numel() for p in network.parameters()) == 27_427_561


def architecture(**arguments):
    return {
        "network_class_name": f"{VMUNet.__module__}.VMUNet", "arch_kwargs": arguments, "_kw_requires_import": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch_size": [4, 8, 8, 8]}, r"patch size \[4, 8, 8, 8\]: .* images \(2 numbers\) or volumes \(3 numbers\)"),
        ({"architecture": architecture(**NETWORK)}, 'of 2D images, but .* is 3D: give its arch_kwargs "strides"'),
        (
            {"architecture": architecture(**NETWORK, strides=[[1, 1], [4, 4], [2, 2], [2, 2]])},
            r"of 2D images, but the configuration's patch size \[.*\] is 3D",
        ),
        (
            {"architecture": {**architecture(), "network_class_name": "their.Net"}},
            "takes its strides from the plans, .*None",
        ),
        (
            {"architecture": {**architecture(strides=[1, 2, 2]), "network_class_name": "their.Net"}},
            r"whose their.Net has arch_kwargs.strides \[1, 2, 2\]: it needs three numbers",
        ),
        (
            {"architecture": {**architecture(strides=[[1, 1, 1]]), "network_class_name": "their.Net"}},
            "a step that is larger than 1",
        ),
        (
            {"architecture": architecture(**NETWORK, strides=[[1, 1, 1], [4, 4, 4], [1, 1, 1], [2, 2, 2]])},
            "The plans' arch_kwargs give no VM-UNet: strides must .* be larger than 1",
        ),
    ],
)  # fmt: skip
def test_what_no_vm_unet_is_for_is_refused_before_anything_is_written(make, tmp_path, tiny_dataset, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(nnUNetTrainerDSVM, configuration="3d_fullres", of_3d=changes)
    assert not (tmp_path / "a").exists()
    plans = tiny_dataset.load_plans()
    plans["configurations"]["3d_fullres"].update(changes)
    manager = PlansManager(plans)
    with pytest.raises(ValueError, match=sentence):
        nnUNetTrainerDSVM.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 3, False)


def test_a_network_with_a_constant_output_is_refused_before_anything_is_written(make, tmp_path, tiny_dataset):
    architecture = copy.deepcopy(tiny_dataset.load_plans()["configurations"]["2d"]["architecture"])
    architecture["arch_kwargs"]["dims"] = [4, 8]
    with pytest.raises(ValueError, match=r"dims \[4, 8\] in the plans.*begin with 8 or more"):
        make(nnUNetTrainerDSVM, architecture=architecture)
    assert not (tmp_path / "a").exists()
