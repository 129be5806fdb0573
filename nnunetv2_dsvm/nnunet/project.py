"""nnU-Net's three folders below one folder, and nnU-Net's commands on a dataset in them."""

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.nnunet.commands import run_command
from nnunetv2_dsvm.nnunet.folders import VARIABLES
from nnunetv2_dsvm.nnunet.names import (
    CHECKPOINTS,
    DATASET_JSON,
    FINAL,
    fold_folder,
    folds_of_model,
    model_name,
    validation_folder,
)


@dataclass(frozen=True)
class NnUNetProject:
    """Runs nnU-Net's commands with folders of their own; the user's variables and folders are not touched.

    Args:
        folder: holds nnUNet_raw, nnUNet_preprocessed, nnUNet_results and logs.
        dataset: `DatasetXXX_Name`.
        plans: name of the plans to train with.
        trainer: name of the trainer class.
        device: as nnU-Net names it.
        processes: worker processes of nnU-Net, of each kind.
        configuration: of nnU-Net's plans.
    """

    folder: Path
    dataset: str
    plans: str
    trainer: str
    device: str
    processes: int
    configuration: str = "2d"

    @property
    def dataset_id(self) -> str:
        return str(int(self.dataset[len("Dataset") : len("Dataset") + 3]))

    @property
    def raw(self) -> Path:
        return self.folder / "nnUNet_raw" / self.dataset

    @property
    def preprocessed(self) -> Path:
        return self.folder / "nnUNet_preprocessed" / self.dataset

    @property
    def model(self) -> Path:
        return self.folder / "nnUNet_results" / self.dataset / model_name(self.trainer, self.plans, self.configuration)

    def variables(self) -> dict[str, str]:
        """What nnU-Net's commands find in their environment besides the user's own."""
        variables = {name: str(self.folder / name) for name in VARIABLES}
        defaults = {
            "nnUNet_def_n_proc": str(self.processes),
            "nnUNet_n_proc_DA": str(self.processes),
            # glibc hands large blocks back to the system at once and asks for them again in the next step. Keeping them
            # cut the system's share of the CPU time of a training from 50 % to 7 %.
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
            "MALLOC_TRIM_THRESHOLD_": str(2**30),
        }
        return variables | {name: os.environ.get(name, default) for name, default in defaults.items()}

    def plan_and_preprocess(self) -> None:
        shutil.rmtree(self.preprocessed, ignore_errors=True)  # of an interrupted run
        n = str(self.processes)
        self._run(
            "nnUNetv2_plan_and_preprocess", "-d", self.dataset_id, "-c", self.configuration,
            "--verify_dataset_integrity", "-np", n, "-npfp", n,
        )  # fmt: skip

    def train(self, fold: int, *, save_probabilities: bool = False) -> None:
        """Train a fold and predict its validation cases; goes on from a checkpoint if an interrupted run left one."""
        present = [name for name in CHECKPOINTS if (fold_folder(self.model, fold) / name).is_file()]
        if FINAL in present:
            go_on = ["--val"]
        elif present:
            go_on = ["--c"]
        else:
            go_on = []
        if save_probabilities:
            go_on.append("--npz")
        self._run(
            "nnUNetv2_train", self.dataset_id, self.configuration, str(fold), *self._model_options(), *go_on,
            "-device", self.device,
        )  # fmt: skip

    def find_best_configuration(self, folds: Sequence[int]) -> None:
        self._run(
            "nnUNetv2_find_best_configuration", self.dataset_id, "-c", self.configuration, *self._model_options(),
            "-f", *map(str, folds), "-np", str(self.processes),
        )  # fmt: skip

    def predict(self, images: Path, output: Path, folds: Sequence[int]) -> None:
        self._run(
            "nnUNetv2_predict", "-d", self.dataset_id, "-i", str(images), "-o", str(output), "-c", self.configuration,
            *self._model_options(), "-f", *map(str, folds), "-npp", "1", "-nps", "1", "-device", self.device,
        )  # fmt: skip

    def apply_postprocessing(self, predictions: Path, output: Path) -> None:
        """Apply what `find_best_configuration` chose."""
        information = json.loads((self.model.parent / "inference_information.json").read_text(encoding="utf-8"))
        best = information["best_model_or_ensemble"]
        self._run(
            "nnUNetv2_apply_postprocessing", "-i", str(predictions), "-o", str(output),
            "-pp_pkl_file", best["postprocessing_file"], "-plans_json", best["some_plans_file"],
            "-np", str(self.processes),
        )  # fmt: skip

    def evaluate(self, truth: Path, predictions: Path) -> Path:
        """Write and return `predictions/summary.json`."""
        self._run(
            "nnUNetv2_evaluate_folder", str(truth), str(predictions), "-djfile", str(self.raw / DATASET_JSON),
            "-pfile", str(self.preprocessed / f"{self.plans}.json"), "-np", "1",
        )  # fmt: skip
        return predictions / "summary.json"

    def remove_what_can_be_recomputed(self) -> None:
        """Remove the preprocessed arrays and the saved probabilities; plans, splits, models and results stay."""
        plans = json.loads((self.preprocessed / f"{self.plans}.json").read_text(encoding="utf-8"))
        identifier = plans["configurations"][self.configuration]["data_identifier"]
        shutil.rmtree(self.preprocessed / identifier, ignore_errors=True)
        for fold in folds_of_model(self.model):
            validation = validation_folder(self.model, fold)
            for probabilities in [*validation.glob("*.npz"), *validation.glob("*.pkl")]:
                probabilities.unlink()

    def preprocess_again_command(self) -> str:
        """What brings the preprocessed arrays back."""
        words = ["nnUNetv2_preprocess", "-d", self.dataset_id, "-plans_name", self.plans, "-c", self.configuration]
        return shlex.join([*words, "-np", str(self.processes)])

    def _model_options(self) -> list[str]:
        return ["-tr", self.trainer, "-p", self.plans]

    def _run(self, *command: str) -> None:
        # Unbuffered, so that progress shows through the pipe; no picture of nnU-Net's may ask for a display.
        environment: Mapping[str, str] = {
            **os.environ, **self.variables(), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg",
        }  # fmt: skip
        run_command(command, environment=environment, log_file=self.folder / "logs" / f"{command[0]}.log")
