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


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_pictures():
    from short_trainers import without_pictures

    with without_pictures():
        yield


@pytest.fixture
def make(tiny_dataset, tmp_path, monkeypatch):
    """make(Trainer, run="a", **changes of the 2d plans): a trainer whose results lie in a folder of the test's own."""
    for name, value in tiny_dataset.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NNUNETV2_DSVM_SEED", raising=False)

    def make_trainer(trainer_class, *, run="a", continued=False, configuration="2d", labels=None, **changes):
        monkeypatch.setenv("nnUNet_results", str(tmp_path / run))
        plans, dataset_json = tiny_dataset.load_plans(), tiny_dataset.load_dataset_json()
        plans["configurations"]["2d"].update(changes)
        dataset_json.update(labels or {})
        plans["continue_training"] = continued
        return trainer_class(plans, configuration, 0, dataset_json, device=torch.device("cpu"))

    return make_trainer


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """nnU-Net's three variables name folders below this one, which do not exist yet."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path
