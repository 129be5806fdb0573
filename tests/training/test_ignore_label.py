"""nnU-Net's ignore label, with and without regions: ignored pixels do not drive the distillation either."""

import numpy as np
import pytest
import torch
from helpers.short_trainers import ShortDSVM, ShortDSVM_deepSupervision
from helpers.tiny_dataset import make_tiny_dataset
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss

from nnunetv2_dsvm.training.loss import pixels_not_ignored

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")
IGNORE = {"labels": {"background": 0, "one": 1, "two": 2, "ignore": 3}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    "regions_class_order": [1, 2],
}


def test_the_mask_is_one_where_labelled():
    labels = torch.tensor([[[[0, 1], [3, 3]]]])
    assert pixels_not_ignored(labels, 3, False).tolist() == [[[[1, 1], [0, 0]]]]
    regions = torch.tensor([[[[True, False]], [[False, True]]]])  # one region, then the ignore label
    assert pixels_not_ignored(regions, 3, True).tolist() == [[[[1, 0]]]]


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """Regions, and half of each image ignored; its preprocessed cases serve labels without regions too."""
    return make_tiny_dataset(tmp_path_factory.mktemp("ignore"), regions=True, ignore_label=3, training_cases=2)


@pytest.mark.parametrize("trainer_class", [ShortDSVM, ShortDSVM_deepSupervision], ids=lambda c: c.__name__)
@pytest.mark.parametrize("labels", [IGNORE, REGIONS], ids=["labels", "regions"])
def test_trains_with_an_ignore_label(make, trainer_class, labels):
    trainer = make(trainer_class, labels=labels)
    trainer.fold = "all"
    trainer.num_epochs = 1
    trainer.run_training()
    assert np.isfinite(trainer.losses).all()
    batch = next(trainer.dataloader_train)["target"]
    mask = trainer.loss.not_ignored(batch[0] if isinstance(batch, list) else batch)
    assert 0 < mask.mean() < 1


def test_cross_entropy_of_a_batch_without_labels_stops_nothing(make):
    """It is 0/0, its gradient 0; nnU-Net goes on."""

    class CrossEntropy(nnUNetTrainerCELoss, ShortDSVM):
        pass

    trainer = make(CrossEntropy, labels=IGNORE)
    trainer.initialize()
    trainer.network.train()
    batch = {"data": torch.randn(2, 1, 32, 40), "target": torch.full((2, 1, 32, 40), 3.0)}
    assert np.isnan(trainer.train_step({**batch, "target": batch["target"].clone()})["loss"])
    assert all(p.isfinite().all() for p in trainer.network.parameters())
    trainer.network.eval()
    assert np.isnan(trainer.validation_step(batch)["loss"])


@pytest.mark.parametrize("labels", [IGNORE, REGIONS], ids=["labels", "regions"])
def test_a_wholly_ignored_batch_gives_the_distillation_no_gradient(make, labels):
    trainer = make(ShortDSVM, labels=labels, patch_size=[31, 40])
    trainer.initialize()
    trainer.network.train()
    if labels is REGIONS:
        target = torch.zeros(2, 3, 31, 40, dtype=torch.bool)
        target[:, -1] = True
    else:
        target = torch.full((2, 1, 31, 40), 3)
    trainer.loss(trainer.network(torch.randn(2, 1, 31, 40)), target).backward()
    assert trainer.loss.last_terms["projection"] == trainer.loss.last_terms["progressive"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in trainer.distillation.parameters())
    half = target.clone()
    half[:, -1:, :16] = 0
    trainer.loss(trainer.network(torch.randn(2, 1, 31, 40)), half).backward()
    assert trainer.loss.last_terms["projection"] > 0
    assert all(p.grad.isfinite().all() and p.grad.any() for p in trainer.distillation.parameters())
