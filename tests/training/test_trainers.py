"""The trainers inside nnU-Net's own training loop, on a generated dataset, on the CPU."""

import copy
import inspect
import os
import random
from functools import partial

import numpy as np
import pytest
import torch
from helpers.short_trainers import (
    SHORT,
    SHORT_RELATIVES,
    ShortDSVM,
    ShortDSVM_deepSupervision,
    ShortDSVM_kl,
    ShortDSVM_projection,
    ShortVMUNet,
    assert_equal,
    checkpoint_of,
    tiny_architecture,
    with_deep_supervision,
)
from helpers.tiny_dataset import NETWORK
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.models.trained_network import load_trained_network
from nnunetv2_dsvm.quickstart import trainers
from nnunetv2_dsvm.training import precision, variants
from nnunetv2_dsvm.training.distilled_trainer import nnUNetTrainerDistilled
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.layers.class_settings import NNUNETS
from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.precision import cuda_autocast, trains_in_bf16
from nnunetv2_dsvm.training.variants import relatives
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

NAMES = {name: module for module in (variants, trainers) for name in module.__all__ if "Trainer" in name}
VARIANTS = [getattr(module, name) for name, module in NAMES.items() if name not in relatives.__all__]
TURNING = "configure_rotation_dummyDA_mirroring_and_inital_patch_size"
FIXED = {TURNING: vars(variants.FixedOrientation)[TURNING]}

pytestmark = pytest.mark.usefixtures("one_thread")


# --- names and sizes --------------------------------------------------------------------------------------------------


WHAT_A_NAME_STATES = {
    "projection": {"distillation_terms": ("projection",)},
    "progressive": {"distillation_terms": ("progressive",)},
    "kl": {"distillation_distance": "kl"},
    "deepSupervision": {"default_deep_supervision": True},
    "frozenEncoder": {"frozen_encoder_epochs": 10},
    "noScan": {"scan": False},
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


def build(trainer_class, plans, **keywords):
    manager = PlansManager(plans)
    arguments = manager, manager.get_configuration("2d"), 1, 3
    return trainer_class.build_network_architecture(*arguments, enable_deep_supervision=False, **keywords)


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


# --- what is refused --------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("value", ["-1", "1.5", "abc", "²"])
def test_wrong_seed_is_refused_before_anything_is_written(make, tmp_path, monkeypatch, value):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", value)
    with pytest.raises(ValueError, match=f"NNUNETV2_DSVM_SEED must be an integer.*{value}"):
        make(nnUNetTrainerDSVM)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("value", ["", " "])
def test_empty_seed_is_no_seed(make, monkeypatch, value):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", value)
    assert make(nnUNetTrainerDSVM).seed is None


# --- whole trainings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer_class", [*SHORT, *SHORT_RELATIVES], ids=lambda c: c.__name__)
@pytest.mark.usefixtures("no_pictures")
def test_a_continued_training_is_an_uninterrupted_one(make, monkeypatch, trainer_class):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "7")
    make = partial(make, **tiny_architecture(trainer_class))
    straight = make(trainer_class, run="straight")
    straight.run_training()

    class CutOff(trainer_class):
        cut_off_at = 2

    CutOff.__name__ = trainer_class.__name__
    first = make(CutOff, run="cut")
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    random.seed(), np.random.seed(), torch.seed()  # what a new process starts with
    second = make(trainer_class, run="cut", continued=True)
    second.load_checkpoint(os.path.join(second.output_folder, "checkpoint_latest.pth"))
    second.run_training()

    assert straight.losses == first.losses + second.losses
    assert len(set(straight.losses)) == 6
    expected, got = checkpoint_of(straight), checkpoint_of(second)
    for key in ("network_weights", "optimizer_state", "nnunetv2_dsvm", "current_epoch"):
        assert_equal(expected[key], got[key])
    for key in set(expected["logging"]) - {"epoch_start_timestamps", "epoch_end_timestamps"}:
        np.testing.assert_array_equal(expected["logging"][key], got["logging"][key], err_msg=key)


@pytest.mark.usefixtures("no_pictures")
def test_the_seed_decides(make, monkeypatch):
    class OneEpoch(ShortDSVM):
        default_num_epochs = 1

    losses = {}
    for run, seed in {"a": "1", "b": "1", "c": "2"}.items():
        monkeypatch.setenv("NNUNETV2_DSVM_SEED", seed)
        random.seed(), np.random.seed(), torch.seed()
        trainer = make(OneEpoch, run=run)
        trainer.run_training()
        losses[run] = trainer.losses
    assert losses["a"] == losses["b"] != losses["c"]


@pytest.mark.usefixtures("no_pictures")
def test_seeding_leaves_torchs_settings_as_they_were(make, monkeypatch):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "1")
    torch.use_deterministic_algorithms(False)
    seen = []

    class OneEpoch(ShortVMUNet):
        default_num_epochs = 1

        def on_epoch_end(self):
            super().on_epoch_end()
            seen.append(torch.are_deterministic_algorithms_enabled())

    make(OneEpoch).run_training()
    assert seen == [True] and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp16"])
def test_bf16_where_the_device_has_it_and_only_while_training(make, monkeypatch, bf16):
    monkeypatch.setattr(precision, "trains_in_bf16", lambda device: bf16)
    seen = set()

    class OneEpoch(ShortDSVM):
        default_num_epochs = 1

        def train_step(self, batch):
            seen.add(torch.get_autocast_dtype("cuda"))
            return super().train_step(batch)

    trainer = make(OneEpoch)
    trainer.grad_scaler = scaler = torch.amp.GradScaler("cpu")  # as nnU-Net makes one for a CUDA device
    trainer.run_training()
    assert seen == {torch.bfloat16 if bf16 else torch.float16}
    assert torch.get_autocast_dtype("cuda") == torch.float16
    assert trainer.grad_scaler is (None if bf16 else scaler)
    assert np.isfinite(trainer.losses).all()


def test_bf16_ends_with_an_error_too():
    with pytest.raises(KeyboardInterrupt), cuda_autocast(torch.bfloat16):
        raise KeyboardInterrupt
    assert torch.get_autocast_dtype("cuda") == torch.float16


def test_a_cpu_trains_in_fp32():
    assert not trains_in_bf16(torch.device("cpu"))


def test_terms_are_in_the_log_file_the_logger_and_a_picture(make):
    trainer = make(ShortDSVM)
    trainer.run_training()
    keys = ["segmentation_loss", "L_proj", "L_prog", "distillation_ramp"]
    history = checkpoint_of(trainer)["logging"]
    assert all(len(history[key]) == 3 and np.isfinite(history[key]).all() for key in keys)
    assert history["distillation_ramp"] == [1.0, 1.0, 1.0]  # a tenth of 3 epochs is less than one
    # Two steps of weight 1/2 each, so the mean loss is the weighted sum of the mean terms.
    segmentation, projection, progressive = (np.array(history[key]) for key in keys[:3])
    total = segmentation + ShortDSVM.lambda_projection * projection + ShortDSVM.lambda_progressive * progressive
    np.testing.assert_allclose(total, history["train_losses"], rtol=1e-5)
    with open(trainer.log_file) as file:
        lines = [line for line in file if "L_proj" in line and "segmentation_loss" in line]
    assert len(lines) == 3
    for picture in ("progress.png", "progress_distillation.png"):
        assert os.path.getsize(os.path.join(trainer.output_folder, picture)) > 5000
    assert not [name for name in os.listdir(trainer.output_folder) if name.startswith(".")]


@pytest.mark.usefixtures("no_pictures")
def test_an_ablation_logs_the_term_it_has(make):
    trainer = make(ShortDSVM_projection)
    trainer.num_epochs = 1
    trainer.run_training()
    history = checkpoint_of(trainer)["logging"]
    assert "L_proj" in history and "L_prog" not in history


@pytest.mark.parametrize("trainer_class", [ShortDSVM, *SHORT_RELATIVES], ids=lambda c: c.__name__)
@pytest.mark.usefixtures("no_pictures")
def test_regions_train_too(make, trainer_class):
    labels = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    trainer = make(trainer_class, labels=labels, **tiny_architecture(trainer_class))
    trainer.num_epochs = 1
    trainer.run_training()
    assert np.isfinite(trainer.losses).all() and trainer.network.decoder.seg_layers[0].out_channels == 2
    trained = load_trained_network(trainer.output_folder_base, 0)
    assert_equal(dict(trained.network.state_dict()), checkpoint_of(trainer)["network_weights"])
    assert trained.network(torch.zeros(1, 1, 32, 40)).shape == (1, 2, 32, 40)


ODD_OUTPUTS = {1: (52, 38), 2: (26, 19), 4: (13, 10), 8: (7, 5), 16: (4, 3), 32: (2, 2)}
OF_THREE_STAGES = (1, 2)  # of networks whose stages are the plans'


@pytest.mark.parametrize(
    ("trainer_class", "strides"),
    [
        (ShortDSVM_deepSupervision, (1, 4, 8)),
        *(
            (with_deep_supervision(c), getattr(c.network_class(), "output_strides", OF_THREE_STAGES))
            for c in SHORT_RELATIVES
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.usefixtures("no_pictures")
def test_an_odd_patch_trains_with_deep_supervision(make, trainer_class, strides):
    """52 / 8 and 38 / 4 are no whole pixels: nnU-Net rounds to the nearest, the network's outputs are rounded up."""
    trainer = make(trainer_class, patch_size=[52, 38], **tiny_architecture(trainer_class))
    trainer.num_epochs = 1
    trainer.run_training()
    assert np.isfinite(trainer.losses).all()
    trainer.network.train()
    outputs = trainer.network(torch.zeros(2, 1, 52, 38)).logits
    targets = next(trainer.dataloader_train)["target"]
    assert [o.shape[-2:] for o in outputs] == [t.shape[-2:] for t in targets]
    assert [tuple(o.shape[-2:]) for o in outputs] == [ODD_OUTPUTS[stride] for stride in strides]


def test_heads_that_were_not_trained_stay_off(make):
    trainer = make(ShortDSVM)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)  # as nnU-Net does after every validation
    assert trainer.network.decoder.deep_supervision is False
    assert len(trainer.network.decoder.seg_layers) == 1


@pytest.mark.parametrize(
    ("trainer_class", "seed", "recorded"),
    [(ShortDSVM, "1", True), (ShortDSVM_deepSupervision, "", True), (ShortDSVM_deepSupervision, "1", False)],
)
def test_seeded_deep_supervision_records_no_cuda_graphs(make, monkeypatch, trainer_class, seed, recorded):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", seed)
    trainer = make(trainer_class)
    trainer.initialize()
    assert trainer.network.cuda_graphs.training is recorded
    assert trainer.distillation.cuda_graphs.training is recorded


def test_deep_supervision_weights_load_for_inference(make, tiny_dataset):
    trainer = make(ShortDSVM_deepSupervision)
    trainer.initialize()
    network = build(ShortDSVM_deepSupervision, tiny_dataset.load_plans())
    network.load_state_dict(trainer.network.state_dict())
    assert isinstance(network.eval()(torch.zeros(1, 1, 32, 32)), torch.Tensor)


# --- losses that are not finite ---------------------------------------------------------------------------------------


class NaNInTheSecondEpoch(ShortDSVM):
    def train_step(self, batch):
        if self.current_epoch == 1 and len(self.losses) == 3:
            batch["data"][0, 0, 0, 0] = float("nan")
        return super().train_step(batch)


class NaNGradientAtTheEndOfTheSecondEpoch(ShortVMUNet):
    """The loss of the last step is fine, its gradient is not."""

    def train_step(self, batch):
        if self.current_epoch == 1 and len(self.losses) == 3:
            next(self.network.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return super().train_step(batch)


@pytest.mark.parametrize(
    ("trainer_class", "named"),
    [
        (NaNInTheSecondEpoch, r"epoch 1: the training loss became nan \(terms of the last step: segmentation_loss nan"),
        (NaNGradientAtTheEndOfTheSecondEpoch, r"epoch 1: \d+ of \d+ parameters are no longer finite, the first being"),
    ],
    ids=["loss", "gradient"],
)
@pytest.mark.usefixtures("no_pictures")
def test_the_run_stops_and_the_last_good_checkpoint_stays(make, trainer_class, named):
    trainer = make(trainer_class)
    with pytest.raises(RuntimeError, match=named + r".*last good one is .*checkpoint_latest.pth: continue.*--c"):
        trainer.run_training()
    names = sorted(name for name in os.listdir(trainer.output_folder) if "checkpoint" in name)
    assert names == ["checkpoint_best.pth", "checkpoint_latest.pth"]
    for name in names:
        checkpoint = checkpoint_of(trainer, name)
        assert checkpoint["current_epoch"] == 1
        assert all(value.isfinite().all() for value in checkpoint["network_weights"].values())
    with open(trainer.log_file) as file:
        assert "Training stopped in epoch 1" in file.read()


def test_without_a_checkpoint_the_message_says_so(make):
    trainer = make(ShortDSVM)
    trainer.initialize()
    with pytest.raises(RuntimeError, match="There is none before it"):
        trainer.train_step({"data": torch.full((2, 1, 32, 40), float("inf")), "target": torch.zeros(2, 1, 32, 40)})


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_weights_in_a_checkpoint_are_those_of_a_plain_vm_unet(make):
    trainer = make(ShortDSVM)
    trainer.initialize()
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_final.pth"))
    checkpoint = checkpoint_of(trainer)
    plain = VMUNet(1, 3, **NETWORK)
    plain.load_state_dict(checkpoint["network_weights"], strict=True)
    image = torch.randn(1, 1, 32, 40)
    assert torch.equal(plain.eval()(image), trainer.network.eval()(image))
    assert checkpoint["trainer_name"] == "ShortDSVM"
    own = checkpoint["nnunetv2_dsvm"]
    assert own["projections"].keys() == trainer.distillation.state_dict().keys() and own["version"]
    assert own["settings"]["terms"] == ("projection", "progressive")


@pytest.mark.parametrize(
    ("written_by", "continued_by"),
    [(ShortDSVM, ShortVMUNet), (ShortVMUNet, ShortDSVM), (ShortDSVM_projection, ShortDSVM)],
    ids=["dsvm-by-vmunet", "vmunet-by-dsvm", "projection-by-both"],
)
def test_another_distillation_cannot_be_continued(make, written_by, continued_by):
    writer = make(written_by)
    writer.initialize()
    filename = os.path.join(writer.output_folder, "checkpoint_latest.pth")
    writer.current_epoch = 4
    writer.save_checkpoint(filename)
    reader = make(continued_by)
    reader.initialize()
    before = {name: value.clone() for name, value in reader.network.state_dict().items()}
    with pytest.raises(RuntimeError, match=f"{written_by.__name__}.*{continued_by.__name__}.*-pretrained_weights"):
        reader.load_checkpoint(filename)
    assert reader.current_epoch == 0
    assert_equal(before, dict(reader.network.state_dict()))


def test_other_settings_of_the_distillation_are_logged(make):
    writer = make(ShortDSVM)
    writer.initialize()
    filename = os.path.join(writer.output_folder, "checkpoint_latest.pth")
    writer.save_checkpoint(filename)
    reader = make(ShortDSVM_kl)
    reader.load_checkpoint(filename)
    with open(reader.log_file) as file:
        assert "'distance': 'kl'" in file.read()


@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_without_our_log_keys_still_continues(make):
    writer = make(ShortDSVM)
    writer.num_epochs = 1
    writer.run_training()
    filename = os.path.join(writer.output_folder, "checkpoint_final.pth")
    checkpoint = torch.load(filename, weights_only=False)
    del checkpoint["logging"]["L_proj"]
    torch.save(checkpoint, filename)
    reader = make(ShortDSVM)
    reader.load_checkpoint(filename)
    reader.run_training()
    values = checkpoint_of(reader)["logging"]["L_proj"]
    assert np.isnan(values[0]) and np.isfinite(values[1:]).all() and len(values) == 3


def test_a_failed_save_leaves_the_old_checkpoint(make, monkeypatch):
    trainer = make(ShortDSVM)
    trainer.initialize()
    filename = os.path.join(trainer.output_folder, "checkpoint_latest.pth")
    trainer.save_checkpoint(filename)
    with open(filename, "rb") as file:
        before = file.read()

    def no_space_left(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", no_space_left)
    with pytest.raises(OSError, match="no space left"):
        trainer.save_checkpoint(filename)
    with open(filename, "rb") as file:
        assert file.read() == before
    assert [name for name in os.listdir(trainer.output_folder) if "checkpoint" in name] == ["checkpoint_latest.pth"]


@pytest.mark.usefixtures("no_pictures")
def test_disabled_checkpointing_writes_none(make):
    trainer = make(ShortDSVM)
    trainer.disable_checkpointing = True
    trainer.num_epochs = 1
    trainer.run_training()
    assert not [name for name in os.listdir(trainer.output_folder) if "checkpoint" in name]


def test_weights_of_a_vm_unet_start_a_dsvm_training(make):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    writer = make(ShortVMUNet)
    writer.initialize()
    filename = os.path.join(writer.output_folder, "checkpoint_final.pth")
    writer.save_checkpoint(filename)
    reader = make(ShortDSVM)
    reader.initialize()
    load_pretrained_weights(reader.network, filename)
    for name, value in reader.network.state_dict().items():
        if ".seg_layers." not in name:
            assert torch.equal(value, writer.network.state_dict()[name])
