"""Augment the batches of the study's next trainings, each once for all trainings that share it; `run.py` begins it.

    python examples/accuracy_study/record.py RUN_FOLDER PLAN RESULTS ONLY FOLDER AHEAD

Goes on until it is ended. Kept is what trainings read that run now or are among the first AHEAD open ones: the rest
would take terabytes, and is the same when it is written again.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from functools import cache
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import NamedTuple

import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from plan import Training
from recorded_batches import LOCK, PART, STREAMS, TRAINING, VALIDATION, part_file, record, stream_of
from scripts import status_of
from study_run import BATCHES, StudyRun

from nnunetv2_dsvm.cli.shared.interrupts import terminated_like_interrupted
from nnunetv2_dsvm.cluster.locks import held
from nnunetv2_dsvm.cluster.preparation import usable_cpus
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import remove_unfinished
from nnunetv2_dsvm.training.guards.processes import fork_to_end_with_this_one
from nnunetv2_dsvm.training.seeding import SEED_VARIABLE

REREAD_S = 3.0  # between two looks at what is open, when all is written
PARTS_A_LOOK = 8  # for each process: half a minute to a minute
NICENESS = 10  # trainings come first


class Part(NamedTuple):
    """Of the batches of a training.

    Args:
        training: with epochs left out, so that a longer one has the same.
        stream: the folder of what it shares with others.
        kind: TRAINING or VALIDATION.
        number: from 0.
    """

    training: Training
    stream: Path
    kind: str
    number: int


@cache  # each begins a log
def trainer_of(training: Training) -> nnUNetTrainer:
    """The training's own trainer, as far as its batches depend on it."""
    os.environ[SEED_VARIABLE] = str(training.seed)
    dataset, configuration, plans, trainer, fold, *_ = training
    return get_trainer_from_args(dataset, configuration, fold, trainer, plans, device=torch.device("cpu"))


@cache  # parts of all streams come in turns
def loaders_of(training: Training) -> dict[str, Iterator]:
    """nnU-Net's for training and validation, in this process, with targets of one size."""
    trainer = trainer_of(training)
    trainer.enable_deep_supervision = False
    trainer._set_batch_size_and_oversample()
    return dict(zip((TRAINING, VALIDATION), trainer.get_dataloaders(), strict=True))


def record_part(part: Part) -> None:
    """Writes it."""
    record(loaders_of(part.training)[part.kind], *part[1:])


def parts_of(trainings: Iterable[Training], folder: Path) -> list[Part]:
    """All parts that the trainings read, each once, epoch by epoch of all of them: none waits for another's last."""
    parts = dict[tuple[Path, str, int], tuple[float, Part]]()  # with the epoch in which it is read
    for training in trainings:
        trainer = trainer_of(training._replace(epochs=0))
        if not trainer.shares_batches:
            continue
        stream = folder / stream_of(trainer)
        lengths = {TRAINING: trainer.num_iterations_per_epoch, VALIDATION: trainer.num_val_iterations_per_epoch}
        for kind, length in lengths.items():
            for number in range(-(-training.epochs * length // PART)):
                part = Part(training._replace(epochs=0), stream, kind, number)
                parts.setdefault(part[1:], (number * PART / length, part))
    return [part for _, part in sorted(parts.values(), key=lambda of_epoch: of_epoch[0])]


def main() -> None:
    run_folder, plan, results, only, folder, ahead = sys.argv[1:]
    os.environ.pop(BATCHES, None)  # the trainers' own loaders are wanted
    os.environ["nnUNet_n_proc_DA"] = "0"
    os.nice(NICENESS)
    torch.set_num_threads(1)
    place, executor = Path(folder), ProcessPoolExecutor(usable_cpus(), get_context("fork"))
    with (
        terminated_like_interrupted(),
        held(place / LOCK, f"the folder of batches {place}"),
        tempfile.TemporaryDirectory() as logs,
        fork_to_end_with_this_one(),
        suppress(KeyboardInterrupt),
    ):
        os.environ["nnUNet_results"] = logs  # trainers write one; before processes are forked, whose trainers do too
        try:
            keep_recording(
                StudyRun(Path(run_folder), Path(plan), Path(results), "cpu", only), int(ahead), place, executor
            )
        except BrokenProcessPool as error:
            raise UserError(
                "a process that augments batches was killed, as Linux does where memory runs out"
            ) from error
        finally:
            for process in active_children():  # what they have not written is written again
                process.kill()
                process.join()


def keep_recording(run: StudyRun, ahead: int, folder: Path, executor: Executor) -> None:
    """Writes what the next trainings read, and removes streams that none of them reads; never ends."""
    for stream in folder.glob(STREAMS):
        remove_unfinished(stream)
    while True:
        running, others = next_trainings(replace(run), ahead)  # of a copy, which looks again at what is open
        parts = [*parts_of(running, folder), *parts_of(others, folder)]
        for stream in set(folder.glob(STREAMS)) - {part.stream for part in parts}:
            shutil.rmtree(stream)
        missing = {part[1:]: part for part in parts if not part_file(*part[1:]).is_file()}
        for _ in executor.map(record_part, list(missing.values())[: PARTS_A_LOOK * usable_cpus()]):
            pass
        if not missing:
            time.sleep(REREAD_S)


def next_trainings(run: StudyRun, ahead: int) -> tuple[list[Training], list[Training]]:
    """Those that run now; and of the first ones that are neither finished nor failed the others, which begin next."""
    states = {name: state.state for name in run.trainings if (state := run.state(name)) is not None}
    open_ones = [name for name in run.trainings if states.get(name) != "failed"]
    running = [name for name in open_ones if states.get(name) == "running"]
    others = [name for name in open_ones[:ahead] if name not in running]
    return [run.trainings[name] for name in running], [run.trainings[name] for name in others]


if __name__ == "__main__":
    sys.exit(status_of(main))
