"""Set-up of every test: memory that was never written is NaN, and processes share few cores peacefully."""

import locale
import os
import sys
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("nnUNet_n_proc_DA", "2")
os.environ.setdefault("nnUNet_def_n_proc", "2")
# OpenMP's threads spin for long while they wait, on cores that other processes need: see waiting_threads.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import pytest
import torch

# `python -m pytest` takes the package from the folder it is run in, `pytest` the installed one: the processes that the
# tests start, in folders of their own, are to run the same code as the tests.
TESTED, TESTS = Path(find_spec("nnunetv2_dsvm").origin).parents[1], Path(__file__).resolve().parent
PATHS = [str(TESTED)] if TESTS.parent == TESTED else []
# Their scripts find the tests' helpers too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*PATHS, str(TESTS), os.environ.get("PYTHONPATH")]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that none is begun last: those with slow tests, then those with many."""
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))


@pytest.fixture(autouse=True)
def nan_filled_empty():
    """torch.empty gives NaN, so that an element which a kernel forgets to write cannot pass as zero."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(autouse=True)
def nothing_compiled():
    """torch.compile refuses code that the tests before compiled for many shapes."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


LOCALE = locale.setlocale(locale.LC_ALL)


@pytest.fixture(autouse=True)
def same_locale():
    """GDCM sets the process's to "C", in which open() reads and writes ASCII."""
    locale.setlocale(locale.LC_ALL, LOCALE)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A generated dataset, planned and preprocessed once for the whole session (see tiny_dataset.py). Read only."""
    from helpers.tiny_dataset import make_tiny_dataset

    return make_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied_dataset(tiny_dataset, tmp_path):
    """A copy of the tiny dataset to write to, with results of its own."""
    return tiny_dataset.copy(tmp_path / "own")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_pictures():
    from helpers.short_trainers import without_pictures

    with without_pictures():
        yield


@pytest.fixture
def one_epoch(monkeypatch):
    """The trainers of short_trainers.py train one epoch instead of three."""
    from helpers.short_trainers import ShortRun

    monkeypatch.setattr(ShortRun, "default_num_epochs", 1)


@pytest.fixture
def new_dataset(tmp_path):
    """A dataset of the test's own, not yet written, for nnU-Net's own functions in this process."""
    from helpers.tiny_dataset import TinyDataset

    dataset = TinyDataset(tmp_path / "dataset")
    with dataset.here():
        yield dataset


@pytest.fixture
def make_on(tmp_path, monkeypatch):
    """make_on(dataset, Trainer, run="a", **changes of 2d's plans): its results lie in a folder of the test's own."""
    monkeypatch.delenv("NNUNETV2_DSVM_SEED", raising=False)

    def make_trainer(
        dataset,
        trainer_class,
        *,
        run="a",
        continued=False,
        configuration="2d",
        fold=0,
        labels=None,
        plans=None,
        of_3d=None,
        **changes,
    ):
        for name, value in {**dataset.environment, "nnUNet_results": str(tmp_path / run)}.items():
            monkeypatch.setenv(name, value)
        plans, dataset_json = plans or dataset.load_plans(), dataset.load_dataset_json()
        plans["configurations"]["2d"].update(changes)
        plans["configurations"].get("3d_fullres", {}).update(of_3d or {})
        dataset_json.update(labels or {})
        plans["continue_training"] = continued
        return trainer_class(plans, configuration, fold, dataset_json, device=torch.device("cpu"))

    return make_trainer


@pytest.fixture
def make(tiny_dataset, make_on):
    """make_on with the session's dataset."""
    return partial(make_on, tiny_dataset)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """nnU-Net's three variables name folders below this one, which do not exist yet."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path
