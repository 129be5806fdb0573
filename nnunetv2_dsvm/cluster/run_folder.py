"""The folder of a cross-validation: request, states and logs of the steps, and where nnU-Net's results lie."""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.cluster.request import Model, Request
from nnunetv2_dsvm.cluster.steps import Step, steps_of
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json_object, write_json
from nnunetv2_dsvm.nnunet.folders import check_usable_folders
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel

REQUEST, JOBS, LOCK = "cross_validation.json", "slurm_jobs.json", ".cross_validation.lock"
RESULTS = "results.md"


@dataclass(frozen=True)
class State:
    """What a step has told about itself.

    Args:
        state: `running`, `done`, `failed`, `interrupted` or `cancelled`.
        after: the steps that it depended on.
        started, ended: seconds since 1970; 0: not yet.
        reason: why it failed, in a line.
        tail: the last lines of its log, where it failed.
        process: of the running step.
        gpu_memory_mib: the most that its GPU had in use; None where nothing told.
    """

    state: str
    after: tuple[str, ...] = ()
    started: float = 0.0
    ended: float = 0.0
    reason: str = ""
    tail: tuple[str, ...] = ()
    process: str = ""
    gpu_memory_mib: float | None = None


@dataclass(frozen=True)
class RunFolder:
    """A folder that a call has begun, or will."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / LOCK

    @cached_property
    def request(self) -> Request:
        """Raises UserError: there is none, or another version's."""
        file = self.path / REQUEST
        try:
            return Request.from_json(
                read_json_object(file, "It is the folder of a cross-validation that is meant (-o)")
            )
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{file} is not of this command's making ({error!r}): choose another folder with -o"
            ) from error

    @cached_property
    def steps(self) -> dict[str, Step]:
        return {step.name: step for step in steps_of(self.request)}

    def write_request(self, request: Request) -> "RunFolder":
        """The folder with another request; what earlier ones have left stays."""
        for folder in (self.path, self.path / "steps", self.path / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(self.path / REQUEST, request.as_json(), indent=2)
        return RunFolder(self.path)

    def command(self, step: Step) -> list[str]:
        """Does a step in a process of its own, as `engines.step_run` says, with its exit status."""
        return [sys.executable, "-m", "nnunetv2_dsvm.cluster.engines.step_run", str(self.path), step.name]

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def state(self, name: str) -> State | None:
        """What the step's file says; None where there is none, or one of another version."""
        file = self.path / "steps" / f"{name}.json"
        if not file.is_file():
            return None
        try:
            stored = read_json_object(file)
            content: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
            return State(**content)
        except (UserError, TypeError):
            return None

    def write_state(self, name: str, state: State) -> None:
        write_json(self.path / "steps" / f"{name}.json", asdict(state), indent=1)

    def jobs(self) -> dict[str, str]:
        """The SLURM jobs that were submitted last, by their steps."""
        file = self.path / JOBS
        return {name: str(job) for name, job in read_json_object(file).items()} if file.is_file() else {}

    def write_jobs(self, jobs: Mapping[str, str]) -> None:
        write_json(self.path / JOBS, dict(jobs), indent=1)

    def step_lock(self, step: Step) -> Path:
        """The lock without which a step must not run: beside what it writes, so that it holds for every call."""
        if step.kind == "prepare":
            return _folder("preprocessed") / f".{step.dataset}.lock"
        if step.model is not None and step.kind == "train":
            return model_folder(step.model).folder / f".fold_{step.fold}.lock"
        if step.kind in ("best", "evaluate"):
            return results_folder(step.seed) / step.dataset / f".{step.name}.lock"
        return self.path / "steps" / f".{step.name}.lock"

    def predictions(self, dataset: str, seed: int | None) -> Path:
        """Of the data set's `imagesTs`, by the best configuration; no other's lie in it."""
        return _of_seed(self.path / "predictions", seed) / dataset

    def choice(self, dataset: str, seed: int | None) -> Path:
        """The best configuration as nnU-Net has chosen it here: it keeps one a data set, of whoever asked last."""
        return _of_seed(self.path / "best", seed) / dataset

    def report(self, dataset: str, seed: int | None) -> Path:
        """The folder of report.html: this one, or one below it where there are several reports."""
        below = self.path if len(self.request.datasets) == 1 else self.path / dataset
        return below if seed is None else below / f"seed_{seed}"


def results_folder(seed: int | None) -> Path:
    """nnUNet_results of a seed; nnU-Net takes no folder of this name for a data set.

    Raises:
        UserError: the variable is not set.
    """
    check_usable_folders("results")
    return _of_seed(_folder("results"), seed)


def model_folder(model: Model) -> TrainedModel:
    return TrainedModel(results_folder(model.seed) / model.dataset / model.folder_name)


def variables_of(step: Step) -> dict[str, Any]:
    """What a step's commands find in their environment beside the user's own."""
    seeds = {} if step.seed is None else {"NNUNETV2_DSVM_SEED": str(step.seed)}
    results = {} if step.kind in ("prepare", "report") else {"nnUNet_results": str(results_folder(step.seed))}
    # Unbuffered, so that the log can be followed; no picture of nnU-Net's may ask for a display.
    fixed = {"PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg"}
    planning = step.kind == "prepare" and os.environ.get("nnUNet_n_proc_DA") == "0"
    fixed |= {"nnUNet_n_proc_DA": "1"} if planning else {}  # nnU-Net cannot plan with 0
    return fixed | seeds | results | {"NNUNETV2_DSVM_SAVE_EVERY": os.environ.get("NNUNETV2_DSVM_SAVE_EVERY", "1")}


def _of_seed(folder: Path, seed: int | None) -> Path:
    return folder if seed is None else folder / f"seed_{seed}"


def _folder(kind: str) -> Path:
    return Path(os.environ[f"nnUNet_{kind}"])
