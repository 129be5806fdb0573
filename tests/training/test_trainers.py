"""The trainers inside nnU-Net's own training loop, on a generated dataset, on the CPU."""

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
    ShortDSVM_projection,
    ShortVMUNet,
    assert_equal,
    build,
    checkpoint_of,
    tiny_architecture,
    with_deep_supervision,
)

from nnunetv2_dsvm.models.trained_network import load_trained_network
from nnunetv2_dsvm.training import precision
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.precision import cuda_autocast, trains_in_bf16

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("trainer_class", [ShortDSVM, ShortDSVM_deepSupervision], ids=lambda c: c.__name__)
def test_cuda_graphs_are_recorded_with_a_seed_too_unless_the_network_is_compiled(
    make, monkeypatch, trainer_class, compiled
):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "1")
    monkeypatch.setattr(trainer_class, "_do_i_compile", lambda self: compiled)
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    trainer = make(trainer_class)
    trainer.initialize()
    assert trainer.network.cuda_graphs.training is not compiled
    assert trainer.distillation.cuda_graphs.training is not compiled


def test_deep_supervision_weights_load_for_inference(make, tiny_dataset):
    trainer = make(ShortDSVM_deepSupervision)
    trainer.initialize()
    network = build(ShortDSVM_deepSupervision, tiny_dataset.load_plans())
    network.load_state_dict(trainer.network.state_dict())
    assert isinstance(network.eval()(torch.zeros(1, 1, 32, 32)), torch.Tensor)
