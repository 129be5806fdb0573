"""Cross-validations of the tiny dataset by the command itself, with a user's trainers of a few steps."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from helpers.tiny_dataset import PLANS, TinyDataset
from nnunetv2_dsvm.cluster.request import Request

TINY = "Dataset901_Tiny"
OURS, NNUNETS = "nnUNetTrainerDSVM_cv", "nnUNetTrainer_cv"
TRAINERS = f"""
import os
import time

from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from helpers.quick_nnunet import threads_for_processes
from nnunetv2_dsvm.training.layers import distilled
from nnunetv2_dsvm.training.variants import nnUNetTrainerDSVM_FixedOrientation

# Drawing and processes that import torch take longer than training here.
threads = threads_for_processes()
threads.__enter__()
LocalLogger.plot_progress_png = distilled.plot_distillation_progress = lambda *arguments: None


class Short:
    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        while self.current_epoch and os.path.exists(os.path.join(os.environ["nnUNet_raw"], f"wait {{self.fold}}")):
            time.sleep(0.1)
        if os.path.exists(os.path.join(os.environ["nnUNet_raw"], f"fail {{type(self).__name__}} {{self.fold}}")):
            raise RuntimeError("this fold is made to fail")


class {OURS}(Short, nnUNetTrainerDSVM_FixedOrientation):
    default_num_epochs = 2

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 1


class {NNUNETS}(Short, nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=None):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False  # the tiny network of the plans has none
        self.num_epochs = self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1
"""


def asked(**changes) -> Request:
    """Two trainers, A and B, on two folds of the tiny dataset."""
    values = {
        "datasets": (TINY,), "plans": ("tinyPlans",), "configurations": ("2d",), "trainers": ("A", "B"),
        "folds": ("0", "1"), "device": "cpu",
    }  # fmt: skip
    return Request(**{**values, **changes})


class CrossValidations:
    """A user's place: a dataset, two trainers, and the command on folds 0 and 1.

    Files of these names in `signs` act on the running trainings: `fail TRAINER FOLD` makes an epoch fail, `wait FOLD`
    keeps a training in its second epoch.
    """

    def __init__(self, dataset: TinyDataset, **variables: str) -> None:
        self.dataset, self.signs = dataset, dataset.raw.parent
        trainers = dataset.root / "my_trainers"
        trainers.mkdir()
        (trainers / "my_trainers.py").write_text(TRAINERS)
        self.variables = {
            **os.environ,
            **dataset.environment,
            "nnUNet_extTrainer": str(trainers),
            "OMP_NUM_THREADS": "1",
            "nnUNet_npp": "0",
            "nnUNet_nps": "0",  # no processes that each import torch
            **variables,
        }

    @property
    def folder(self) -> Path:
        return self.dataset.results.parent / "cross_validation"

    def command(self, *arguments: object) -> list[str]:
        return [str(Path(sys.executable).parent / "nnUNetv2_dsvm"), "cross_validate", *map(str, arguments)]

    def training(self, *options: object, trainers: tuple[str, ...] = (OURS,)) -> list[str]:
        return self.command("-d", 901, "-tr", *trainers, "-p", PLANS, "-f", 0, 1, "-device", "cpu", *options)

    def begin(self, *options: object, trainers: tuple[str, ...] = (OURS,)) -> subprocess.Popen:
        command = self.training(*options, trainers=trainers)
        # An interrupt reaches it also where these tests are begun in the background, which ignores interrupts.
        return subprocess.Popen(
            command, env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def call(self, command: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(command, env=self.variables, capture_output=True, encoding="utf-8")

    def status(self) -> dict[str, dict]:
        """Of the steps, by what is left of their names without dataset, plans and configuration."""
        done = self.call(self.command("--status", "--json"))
        assert done.stdout, done.stderr
        return {short(step["step"]): step for step in json.loads(done.stdout)}

    def states(self) -> dict[str, str]:
        return {name: step["state"] for name, step in self.status().items()}

    def fold(self, fold: int, trainer: str = OURS) -> Path:
        return self.dataset.results / f"{trainer}__{PLANS}__2d" / f"fold_{fold}"

    def is_in_second_epoch(self, fold: int) -> bool:
        return any(": Epoch 1" in log.read_text() for log in self.fold(fold).glob("training_log_*"))

    def log(self, name: str) -> str:
        (log,) = (path for path in (self.folder / "logs").glob("*.log") if short(path.stem) == name)
        return log.read_text(encoding="utf-8")


def short(name: str) -> str:
    for part in ("__Dataset901_Tiny", f"__{PLANS}", "__2d"):
        name = name.replace(part, "")
    return name.replace("__", " ")


def wait_for(what: Callable[[], object], seconds: float = 600) -> None:
    """Until it is so; nothing here is quick on a machine with much else to do."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it has not happened"
        time.sleep(0.3)
