"""A call of the study as the package's queue sees it: a run folder whose steps are the plan's open trainings."""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

from plan import Plan, Training
from results import finished, read

from nnunetv2_dsvm.cluster.progress import training_progress
from nnunetv2_dsvm.cluster.request import Model, Request
from nnunetv2_dsvm.cluster.run_folder import RunFolder, model_folder
from nnunetv2_dsvm.cluster.steps import Step

PER_GPU = "ACCURACY_STUDY_PER_GPU"  # variable: trainings at a time on a GPU, for the results
BATCHES = "ACCURACY_STUDY_BATCHES"  # variable: the folder of what `record.py` writes, as the trainers read it
BATCHES_LOCK = ".lock"  # in that folder, of the process that writes it
EPOCHS = 50  # that the plan's minutes are of
TWO_VALIDATIONS = 1.2  # times what a training with one takes


@dataclass(frozen=True)
class StudyRun(RunFolder):
    """The trainings of which a score is not in the results yet.

    Args:
        path: of states and logs.
        plan_file: JSON, as `plan.json`.
        results: the folder of the CSV files.
        device: as nnU-Net names it.
        only: a part of their names.
    """

    plan_file: Path
    results: Path
    device: str
    only: str = ""

    @cached_property
    def plan(self) -> Plan:
        return Plan.read(self.plan_file)

    @cached_property
    def trainings(self) -> dict[str, Training]:
        """Those that are open, by name, in the plan's order."""
        return {t.name: t for t in self.plan.open(finished(self.results)) if self.only in t.name}

    @cached_property
    def request(self) -> Request:
        return Request(tuple(self.plan.datasets), (), (), (), folds=("0",), device=self.device)

    @cached_property
    def steps(self) -> dict[str, Step]:
        return {name: step_of(training) for name, training in self.trainings.items()}

    def command(self, step: Step) -> list[str]:
        train = Path(__file__).with_name("train.py")
        return [
            sys.executable, str(train), str(self.path), str(self.plan_file), str(self.results), self.device, step.name,
        ]  # fmt: skip

    @property
    def outcomes(self) -> Path:
        """Where finished trainings leave their rows for the CSV files, NAME.json each."""
        return self.path / "outcomes"


def step_of(training: Training) -> Step:
    t = training
    model = Model(t.dataset, t.trainer, t.plans, t.configuration, t.seed)
    return Step(t.name, "train", t.dataset, t.seed, model, str(t.fold))


def estimated_seconds(run: StudyRun, training: Training, per_gpu: int) -> float:
    """What is left of a training: as long as finished ones of its kind took, or as the plan says where none has.

    Its kind: the same data set, configuration and trainer, or else any trainer there, with as many at a time on a GPU.
    Those that lack a score had one validation alone.
    """
    same = [
        row for row in read(run.results, "trainings.csv")
        if (row["dataset"], row["configuration"]) == (training.dataset, training.configuration)
        and row["trainings_per_gpu"] == str(per_gpu) and row["wall_seconds"]
    ]  # fmt: skip
    own = [row for row in same if row["trainer"] == training.trainer]
    planned = 60 * run.plan.datasets[training.dataset]["minutes"][training.configuration] / EPOCHS
    of_epochs = [
        float(row["wall_seconds"])
        / int(row["epochs"])
        / run.plan.times_longer(row["trainer"])
        * (1 if row["dice"] and row["dice_mirrored"] else TWO_VALIDATIONS)
        for row in own or same
    ]
    of_epoch = (median(of_epochs) if of_epochs else planned) * run.plan.times_longer(training.trainer)
    model = step_of(training).model
    progress = training_progress(model_folder(model).fold_folder(training.fold)) if model is not None else None
    left = 1.0 if progress is None else max(0.0, 1 - progress.epoch / training.epochs)
    return of_epoch * training.epochs * left
