"""Set-up of every test: memory that was never written is NaN, and processes share few cores peacefully."""

import os

os.environ.setdefault("nnUNet_n_proc_DA", "2")
os.environ.setdefault("nnUNet_def_n_proc", "2")
# OpenMP's threads spin for long while they wait, on cores that other processes need: see NnUNetProject.variables.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import pytest
import torch


@pytest.fixture(autouse=True)
def nan_filled_empty():
    """torch.empty gives NaN, so that an element which a kernel forgets to write cannot pass as zero."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A generated dataset, planned and preprocessed once for the whole session (see tiny_dataset.py). Read only."""
    from tiny_dataset import make_tiny_dataset

    return make_tiny_dataset(tmp_path_factory.mktemp("tiny"))
