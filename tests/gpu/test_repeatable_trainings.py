"""Two trainings of one seed on one GPU end with equal weights, to the bit; skipped without a GPU."""

import pytest
import torch
from helpers.short_trainers import (
    ShortDSVM,
    ShortDSVM_deepSupervision,
    ShortVMUNet,
    assert_equal,
    checkpoint_of,
    without_pictures,
)
from helpers.tiny_dataset import make_tiny_dataset
from helpers.tiny_volumes import VOLUME, VOLUMES

from nnunetv2_dsvm.cuda_graphs import CALLS_BEFORE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("repeatable"), VOLUMES)


def trained(dataset, trainer_class, configuration, folder):
    with dataset.here(nnUNet_results=str(folder), NNUNETV2_DSVM_SEED="11"), without_pictures():
        plans = {**dataset.load_plans(), "continue_training": False}
        trainer = trainer_class(plans, configuration, 0, dataset.load_dataset_json(), torch.device("cuda"))
        trainer.num_iterations_per_epoch = 2 * CALLS_BEFORE + 4  # enough for the graphs to be recorded and replayed
        trainer.run_training()
    return trainer


@pytest.mark.parametrize("configuration", ["2d", VOLUME])
@pytest.mark.parametrize("trainer_class", [ShortVMUNet, ShortDSVM, ShortDSVM_deepSupervision], ids=lambda c: c.__name__)
def test_one_seed_ends_with_one_network(dataset, tmp_path, trainer_class, configuration):
    first, second = (trained(dataset, trainer_class, configuration, tmp_path / run) for run in ("first", "second"))
    assert first.losses == second.losses and len(set(first.losses)) == len(first.losses)
    for key in ("network_weights", "optimizer_state", "nnunetv2_dsvm"):
        assert_equal(checkpoint_of(first)[key], checkpoint_of(second)[key])
    for trainer in (first, second):
        assert any(graph.parameters for graph in trainer.network.cuda_graphs.graphs)  # one of a training step
