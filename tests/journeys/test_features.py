"""nnU-Net's features with our trainers, each run by nnU-Net's own code: sizes, channels, folds, cascade, prediction."""

import json
import os

import numpy as np
import pytest
import torch
from helpers.short_trainers import (
    SHORT,
    FoundAgain,
    ShortDSVM,
    ShortDSVM_deepSupervision,
    checkpoint_of,
    predictor_of,
    train_one_epoch,
)
from helpers.tiny_dataset import NETWORK, SHAPE, tiny_case
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.ops.dispatch import BACKENDS

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


@pytest.mark.parametrize("trainer_class", [ShortDSVM, ShortDSVM_deepSupervision], ids=lambda c: c.__name__)
@pytest.mark.parametrize("patch_size", [[8, 8], [56, 40], [31, 47], [320, 1024]], ids=str)
def test_patch_sizes_with_a_batch_of_one(make, trainer_class, patch_size):
    trainer = train_one_epoch(make(trainer_class, patch_size=patch_size, batch_size=1))
    assert next(trainer.dataloader_train)["data"].shape == (1, 1, *patch_size)


def test_61_classes(make):
    labels = {"labels": {"background": 0, **{f"organ {i}": i for i in range(1, 61)}}}
    trainer = train_one_epoch(make(ShortDSVM, labels=labels))
    assert trainer.network.decoder.seg_layers[0].out_channels == 61


def test_deep_supervision_has_the_scales_of_its_outputs(make):
    dims = [8, 16, 32, 64]
    architecture = {
        "network_class_name": f"{VMUNet.__module__}.VMUNet",
        "arch_kwargs": {**NETWORK, "dims": dims, "encoder_depths": [1] * 4, "decoder_depths": [1] * 4},
        "_kw_requires_import": [],
    }
    trainer = train_one_epoch(make(ShortDSVM_deepSupervision, architecture=architecture, patch_size=[64, 32]))
    assert trainer._get_deep_supervision_scales() == [[1, 1], [1 / 4, 1 / 4], [1 / 8, 1 / 8], [1 / 16, 1 / 16]]


class NoFloat64(TorchDispatchMode):
    """Refuses every operation whose result is in float64, which Apple's GPUs do not have."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        dtypes = {t.dtype for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)}
        assert not dtypes & {torch.float64, torch.complex128}, f"{function} in {dtypes}"
        return result


@pytest.mark.parametrize("trainer_class", SHORT, ids=lambda c: c.__name__)
def test_no_step_needs_float64(make, monkeypatch, trainer_class):
    def watched(function):
        def call(*arguments):  # a mode does not see into operators of our own
            with NoFloat64():
                return function(*arguments)

        return call

    chunked = BACKENDS["torch_chunked"]
    for name in ("forward", "backward"):
        monkeypatch.setattr(chunked, name, watched(getattr(chunked, name)))
    trainer = make(trainer_class)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    with NoFloat64():
        trainer.train_step(batch)
        trainer.network.eval()
        with torch.no_grad():
            trainer.validation_step(batch)


def test_fold_all_trains_and_validates_on_every_case(make):
    trainer = make(ShortDSVM)
    trainer.fold = "all"
    training, validation = trainer.do_split()
    assert len(training) == 5 and sorted(training) == sorted(validation)
    train_one_epoch(trainer)


def test_a_manual_split_with_one_training_case(make, monkeypatch):
    trainer = make(ShortDSVM)
    monkeypatch.setattr(trainer, "preprocessed_dataset_folder_base", trainer.output_folder)
    split = [{"train": ["case_000"], "val": ["case_003"]}]
    with open(os.path.join(trainer.output_folder, "splits_final.json"), "w") as file:
        json.dump(split, file)
    assert trainer.do_split() == (["case_000"], ["case_003"])


def test_a_compiled_network_trains_and_saves_plain_weights(make, monkeypatch):
    """torch.compile's front end alone: nnU-Net never compiles on a CPU, and generating code takes a minute."""
    compile_network = torch.compile
    monkeypatch.setattr(ShortDSVM, "_do_i_compile", lambda self: True)
    monkeypatch.setattr(torch, "compile", lambda module: compile_network(module, backend="eager"))
    trainer = train_one_epoch(make(ShortDSVM))
    assert isinstance(trainer.network, torch._dynamo.OptimizedModule)
    VMUNet(1, 3, **NETWORK).load_state_dict(checkpoint_of(trainer)["network_weights"])


@pytest.mark.parametrize("mirroring", [True, False], ids=["mirrored", "plain"])
def test_the_python_api_predicts_arrays_smaller_and_larger_than_the_patch(make, mirroring):
    trainer = train_one_epoch(make(FoundAgain))
    predictor = predictor_of(trainer, mirroring=mirroring)
    large = tiny_case(9, 1)[0][0][None]
    small = large[:, :2, :17, :23]
    properties = {"spacing": [4.0, 1.0, 1.0]}
    for image in (large, small):
        labels, probabilities = predictor.predict_single_npy_array(image, properties, None, None, True)
        assert labels.shape == image.shape[1:] and probabilities.shape == (3, *labels.shape)
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-3)
        np.testing.assert_array_equal(probabilities.argmax(0), labels)
    listed = predictor.predict_from_list_of_npy_arrays(
        [large, small], None, [properties] * 2, None, 1, num_processes_segmentation_export=1
    )
    assert [labels.shape for labels in listed] == [SHAPE, (2, 17, 23)]
    np.testing.assert_array_equal(listed[1], labels)
