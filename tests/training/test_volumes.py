"""The trainers on volumes: outputs and losses, repeated and continued trainings, cascade, prediction by hand."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.quick_nnunet import threads_for_processes
from helpers.short_trainers import (
    FoundAgain,
    ShortDSVM,
    ShortDSVM_deepSupervision,
    ShortDSVM_kl,
    ShortNnUNet,
    ShortVMUNet,
    assert_equal,
    checkpoint_of,
    predictor_of,
    short_relative,
    train_one_epoch,
    z_score,
)
from helpers.tiny_dataset import SHAPE, make_tiny_dataset, tiny_case
from helpers.tiny_volumes import CASCADE, LOW, NETWORK_3D, PATCH, VOLUME, VOLUMES
from helpers.unets import CONFIGURATIONS as UNETS
from helpers.unets import UNET_3D
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """With the configurations of helpers/tiny_volumes.py, and nnU-Net's 3D network. Read only."""
    return make_tiny_dataset(tmp_path_factory.mktemp("volumes"), {**UNETS, **VOLUMES})


def trained(make, trainer_class, run, configuration=VOLUME, **options):
    trainer = make(trainer_class, configuration=configuration, run=run, **options)
    trainer.run_training()
    return trainer


@pytest.mark.parametrize("trainer_class", [ShortDSVM, ShortDSVM_deepSupervision], ids=lambda c: c.__name__)
def test_a_seed_repeats_and_continues_a_training_to_the_bit(make, monkeypatch, trainer_class):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "7")
    first, second = (trained(make, trainer_class, run) for run in ("first", "second"))
    cut = make(type("Cut", (trainer_class,), {"cut_off_at": 2}), configuration=VOLUME, run="cut")
    with pytest.raises(KeyboardInterrupt):
        cut.run_training()
    continued = make(trainer_class, configuration=VOLUME, run="cut", continued=True)
    continued.load_checkpoint(os.path.join(cut.output_folder, "checkpoint_latest.pth"))
    continued.run_training()
    assert len(set(first.losses)) == 6 and first.losses == second.losses == cut.losses + continued.losses
    for key in ("network_weights", "optimizer_state", "nnunetv2_dsvm"):
        assert_equal(checkpoint_of(first)[key], checkpoint_of(second)[key])
        assert_equal(checkpoint_of(first)[key], checkpoint_of(continued)[key])


def test_deep_supervision_has_the_scales_of_its_outputs_along_each_axis(make):
    trainer = make(ShortDSVM_deepSupervision, configuration=VOLUME)
    scales = [[1, 1, 1], [1, 9 / 18, 8 / 16]]  # the head of stage 1, behind the patch embedding of 1×2×2
    assert trainer._get_deep_supervision_scales() == scales  # before the network is built
    trainer.initialize()
    assert trainer._get_deep_supervision_scales() == scales
    trainer.network.train()
    outputs = trainer.network(torch.zeros(1, 1, *PATCH)).logits
    batch = next(trainer.get_dataloaders()[0])
    sizes = [(5, 18, 16), (5, 9, 8)]
    assert [tuple(o.shape[2:]) for o in outputs] == [tuple(t.shape[2:]) for t in batch["target"]] == sizes


@pytest.mark.parametrize("trainer_class", [ShortDSVM_kl, ShortVMUNet], ids=lambda c: c.__name__)
def test_it_trains_on_nnunets_plans_with_their_strides(make, monkeypatch, trainer_class):
    """Those of helpers/unets.py: three steps, the first of which leaves the slices alone."""
    sizes = VMUNetSizes((8, 16, 32, 64), (1, 1, 1, 1), (1, 1, 1, 1), d_state=2)
    monkeypatch.setitem(PRESETS, "base", sizes)
    trainer = train_one_epoch(make(trainer_class, configuration=UNET_3D))
    assert trainer.network.sizes.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert trainer.network.sizes.dims == (8, 16, 32)
    log = next(Path(trainer.output_folder).glob("training_log_*.txt")).read_text()
    assert "the published size with the plans' strides, and not the PlainConvUNet that the plans describe" in log


def test_nnunets_own_trainer_trains_the_network_of_our_plans_with_its_deep_supervision(make):
    trainer = train_one_epoch(make(ShortNnUNet, configuration=VOLUME))
    assert trainer.enable_deep_supervision and trainer.network.sizes.axes == 3
    assert len(trainer.network.decoder.seg_layers) == 2


def test_u_mamba_trains_on_volumes_with_the_stages_of_nnunets_plans(make):
    trainer = train_one_epoch(make(short_relative("UMambaEnc"), configuration=UNET_3D))
    planned = trainer.configuration_manager.network_arch_init_kwargs
    assert trainer.network.total_strides[-1] == (4, 8, 8) and np.isfinite(trainer.losses).all()
    assert list(trainer.network.features) == planned["features_per_stage"]
    assert len(trainer.network.encoder.mamba_layers) == len(planned["strides"])
    log = next(Path(trainer.output_folder).glob("training_log_*.txt")).read_text()
    assert "of the stages of the network in the plans" in log


@pytest.mark.parametrize("patch_size", [[4, 8, 8], [16, 9, 31]], ids=str)
def test_patch_sizes_with_a_batch_of_one(make, tiny_dataset, patch_size):
    plans = tiny_dataset.load_plans()
    plans["configurations"][VOLUME].update(patch_size=patch_size, batch_size=1)
    trainer = make(ShortDSVM_deepSupervision, configuration=VOLUME, plans=plans)
    assert next(train_one_epoch(trainer).dataloader_train)["data"].shape == (1, 1, *patch_size)


def by_hand(trainer, image, mirrored):
    """The mean of the logits of an image (channels, z, y, x) over what mirroring along three axes makes of it."""
    network = VMUNet(len(image), 3, **NETWORK_3D).eval()
    network.load_state_dict(checkpoint_of(trainer)["network_weights"])
    axes = [dims for n in range(4 if mirrored else 1) for dims in itertools.combinations((2, 3, 4), n)]
    with torch.inference_mode():
        x = image[None]
        return torch.stack([network(x.flip(dims)).flip(dims) for dims in axes]).mean(0)[0]


@pytest.mark.parametrize("mirrored", [True, False], ids=["mirrored", "plain"])
def test_volumes_smaller_and_larger_than_the_patch_are_predicted_as_by_hand(make, mirrored):
    trainer = train_one_epoch(make(FoundAgain, configuration=VOLUME))
    predictor = predictor_of(trainer, mirroring=mirrored)
    predictor.use_gaussian, predictor.tile_step_size = False, 1
    assert predictor.allowed_mirroring_axes == (0, 1, 2)
    d, h, w = PATCH
    large = torch.randn(1, d, 2 * h, w)
    predicted = predictor.predict_logits_from_preprocessed_data(large)
    patches = [by_hand(trainer, patch, mirrored) for patch in (large[:, :, :h], large[:, :, h:])]
    torch.testing.assert_close(predicted.float(), torch.cat(patches, dim=2), rtol=0, atol=2e-3)  # kept in fp16
    small = torch.randn(1, 3, 10, 8)
    predicted = predictor.predict_logits_from_preprocessed_data(small)
    padded = torch.nn.functional.pad(small, (4, 4, 4, 4, 1, 1))
    expected = by_hand(trainer, padded, mirrored)[:, 1:4, 4:14, 4:12]
    torch.testing.assert_close(predicted.float(), expected, rtol=0, atol=2e-3)
    assert predicted.std() > 0.02


def test_a_cascade(make, tiny_dataset):
    low = train_one_epoch(make(FoundAgain, configuration=LOW, fold="all"))
    low.inference_allowed_mirroring_axes = None
    with threads_for_processes():
        low.perform_actual_validation()  # which writes what the second stage reads
    high = train_one_epoch(make(FoundAgain, configuration=CASCADE))
    assert high.num_input_channels == high.network.encoder.patch_embedding.projection.in_channels == 3
    batch = next(high.dataloader_val)["data"]
    assert batch.shape == (2, 3, *SHAPE) and set(np.unique(batch[:, 1:])) <= {0, 1}

    images, previous = str(tiny_dataset.raw / "imagesTs"), str(tiny_dataset.raw / "labelsTs")  # any label maps will do
    output = str(Path(high.output_folder, "predicted"))
    predictor = predictor_of(high)
    predictor.use_gaussian = False  # in the corners of volumes its weights are too small for fp16
    with pytest.raises(AssertionError, match=f"cascaded network.*previous stage .{LOW}"):
        predictor.predict_from_files(images, output)
    with threads_for_processes():
        predictor.predict_from_files(images, output, True, True, 1, 1, folder_with_segs_from_prev_stage=previous)
    probabilities = np.load(Path(output, "case_005.npz"))["probabilities"]
    (image,), labels = tiny_case(5, 1)
    for seen in (True, False):
        one_hot = [(seen * labels == label).astype(np.float32) for label in (1, 2)]
        x = torch.from_numpy(np.stack([z_score(image), *one_hot]))
        difference = abs(probabilities - by_hand(high, x, False).softmax(0).numpy()).max()
        assert difference < 0.005 if seen else difference > 0.02, "it does not look at the first network's labels"


def test_pretrained_weights_pass_between_trainers_of_volumes(make):
    giver = train_one_epoch(make(ShortDSVM, configuration=VOLUME, run="giver"))
    taker = make(ShortDSVM_deepSupervision, configuration=VOLUME, run="taker")
    taker.initialize()
    load_pretrained_weights(taker.network, os.path.join(giver.output_folder, "checkpoint_final.pth"))
    given, taken = checkpoint_of(giver)["network_weights"], taker.network.state_dict()
    assert_equal(
        {n: t for n, t in taken.items() if ".seg_layers." not in n},
        {n: t for n, t in given.items() if ".seg_layers." not in n},
    )
