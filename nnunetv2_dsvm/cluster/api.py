"""Cross-validate many trainers, look where it stands, and cancel it, as `nnUNetv2_dsvm cross_validate` does."""

import logging
import math
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_dsvm.cluster.engines import slurm
from nnunetv2_dsvm.cluster.engines.gpus import visible_gpus
from nnunetv2_dsvm.cluster.engines.local_queue import LocalQueue
from nnunetv2_dsvm.cluster.engines.slurm import SlurmOptions
from nnunetv2_dsvm.cluster.finished import check_earlier_stages, is_trained, open_steps
from nnunetv2_dsvm.cluster.locks import Owner, held, owner_of
from nnunetv2_dsvm.cluster.preparation import check_plans
from nnunetv2_dsvm.cluster.request import Request, checked_request
from nnunetv2_dsvm.cluster.run_folder import REQUEST, RunFolder, State, results_folder
from nnunetv2_dsvm.cluster.status import AGAIN, FAILED, RUNNING, StepStatus, status_of
from nnunetv2_dsvm.cluster.steps import Step
from nnunetv2_dsvm.cluster.trainers import check_trainers
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import remove_unfinished
from nnunetv2_dsvm.files.places_to_write import check_folder_place
from nnunetv2_dsvm.nnunet.folders import check_folder_variables

FOLDER = "cross_validation"  # below nnUNet_results
_CANCEL_PATIENCE_S = 120.0

_LOG = logging.getLogger(__name__)


def cross_validate(
    datasets: Sequence[str | int],
    trainers: Sequence[str],
    *,
    configurations: Sequence[str] = ("2d",),
    plans: Sequence[str] = ("nnUNetPlans",),
    folds: Sequence[str | int] | None = None,
    seeds: Sequence[int] = (),
    device: str = "cuda",
    protocols: Sequence[str] = (),
    gpus: Sequence[str] | None = None,
    per_gpu: int = 1,
    gpus_per_job: int = 1,
    slurm_options: SlurmOptions | None = None,
    minutes: float | None = None,
    output: Path | str | None = None,
) -> list[StepStatus]:
    """Plans, preprocesses, trains, predicts, evaluates and reports what is missing, each step when it can be begun.

    Called again with the same arguments it goes on where it stopped. Here it returns when nothing is left to do;
    on SLURM when all is submitted. What happens is logged.

    Args:
        datasets: numbers or names.
        trainers, configurations, plans: by nnU-Net's names; each with each.
        folds: numbers, or `all`; by default those of splits_final.json, nnU-Net's five without it.
        seeds: of NNUNETV2_DSVM_SEED, with a results folder `seed_N` below nnUNet_results each.
        device: as nnU-Net names it.
        protocols: `isic` or `synapse`: measured beside nnU-Net's metrics.
        gpus: that are used here, by number or UUID; all by default. On a CPU so many places for a training.
        per_gpu: trainings at a time on each of these.
        gpus_per_job: of one training on SLURM.
        slurm_options: on SLURM, with these; else here.
        minutes: after which what still runs here is interrupted; another call goes on.
        output: the folder of states, logs, table and reports; by default `nnUNet_results/cross_validation`.

    Returns:
        The status of every step.

    Raises:
        UserError: something cannot be begun, or another call is at work in the folder.
        KeyboardInterrupt: passed on after all processes have ended.
    """
    until = time.monotonic() + 60 * _minutes(minutes, here=slurm_options is None)
    request = checked_request(
        datasets,
        configurations,
        trainers,
        plans=plans,
        folds=folds,
        seeds=seeds,
        device=device,
        gpus_per_job=gpus_per_job,
        protocols=protocols,
    )
    if gpus_per_job > 1 and slurm_options is None:
        raise UserError(f"{gpus_per_job} GPUs a training: on this machine each has one; several are for SLURM")
    check_plans(request)
    check_earlier_stages(request)
    run = _folder(output)
    check_folder_place(run.path, "choose another folder with -o", (REQUEST,))
    places = [] if slurm_options is not None else _places(device, gpus, per_gpu)
    check_trainers(request)
    with held(run.lock, f"the cross-validation in {run.path}"):
        run = _with_request(run, request, here=slurm_options is None)
        if slurm_options is not None:
            submitted = slurm.submit(run, slurm_options)
            _LOG.info("submitted %d jobs; the others are done or in the queue", len(submitted))
        else:
            LocalQueue(run, places, per_gpu, _Logged(run), until=until).work()
            if time.monotonic() >= until and open_steps(run):
                _LOG.info("the %g minutes are over: what ran was interrupted; the same call goes on with it", minutes)
    return status(run.path)


def status(output: Path | str | None = None) -> list[StepStatus]:
    """Where the steps of a cross-validation stand, here or on SLURM.

    Args:
        output: its folder; by default `nnUNet_results/cross_validation`.

    Raises:
        UserError: there is none, or SLURM does not answer.
    """
    check_folder_variables("preprocessed", "results")
    run = _folder(output)
    return status_of(run, slurm.queued(run))


def cancel(output: Path | str | None = None) -> list[str]:
    """Ends a cross-validation: its processes on this machine, and its jobs on SLURM. What was saved stays.

    Returns:
        The names of the steps that were running, or were to be run on SLURM.

    Raises:
        UserError: there is none, or its processes run on another machine or as another user.
    """
    check_folder_variables("preprocessed", "results")
    run = _folder(output)
    assert run.request  # or it is refused
    owner, names = owner_of(run.lock), list[str]()
    if owner is not None:
        names = [step.step for step in status(run.path) if step.state == RUNNING]
        if owner.host != socket.gethostname():
            raise UserError(f"the cross-validation in {run.path} is in the hands of {owner}: cancel it there")
        try:
            os.kill(owner.pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError) as error:
            raise UserError(f"{owner} could not be ended: {error.strerror}") from error
        until = time.monotonic() + _CANCEL_PATIENCE_S
        while owner_of(run.lock) == owner and time.monotonic() < until:
            time.sleep(0.2)
    jobs = slurm.cancel_jobs(run)
    for name in jobs:
        step = run.steps.get(name)
        if step is not None and owner_of(run.step_lock(step)) is None:
            run.write_state(name, State("cancelled", (*step.after, *step.after_any), ended=time.time()))
    return list(dict.fromkeys([*names, *jobs]))


def _folder(output: Path | str | None) -> RunFolder:
    return RunFolder(Path(output).absolute() if output is not None else results_folder(None).absolute() / FOLDER)


def _minutes(minutes: float | None, *, here: bool) -> float:
    if minutes is None:
        return math.inf
    if not here:
        raise UserError(f"the {minutes} minutes of a call are for this machine; those of a job are in slurm_options")
    if not 0 < minutes < math.inf:
        raise UserError(f"the minutes of a call are a number above 0, got {minutes}")
    return minutes


def _places(device: str, gpus: Sequence[str] | None, per_gpu: int) -> list[str]:
    if per_gpu < 1:
        raise UserError(f"{per_gpu} trainings on a GPU, expected 1 or more")
    if gpus is not None and len(set(gpus)) < len(gpus):
        raise UserError(f"a GPU is named twice: {', '.join(gpus)}")
    if gpus is not None and (wrong := [gpu for gpu in gpus if not gpu.strip() or "," in gpu]):
        raise UserError(f"a GPU is one number or UUID, several are named with blanks between them, got {wrong[0]!r}")
    found = list(gpus) if gpus is not None else visible_gpus() if device == "cuda" else ["0"]
    if not found:
        raise UserError(
            "no NVIDIA GPU was found here (nvidia-smi -L); name some with --gpus, or train with -device cpu"
        )
    return found


def _with_request(run: RunFolder, request: Request, *, here: bool) -> RunFolder:
    """The folder for this request, if jobs of an earlier call do not stand against it."""
    if (run.path / REQUEST).is_file():
        queue: Mapping[str, str] = slurm.queued(run)
        if queue and here:
            raise UserError(f"{len(queue)} jobs of this cross-validation are on SLURM: see --status, or --cancel them")
        if queue and run.request != request:
            raise UserError(
                f"{len(queue)} jobs of another call in {run.path} are on SLURM: wait, --cancel, or choose -o"
            )
    run = run.write_request(request)
    if here:
        remove_unfinished(run.path / "steps")  # of steps that were killed while they wrote
    return run


class _Logged:
    """Tells what the queue does."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def started(self, step: Step, gpu: str | None) -> None:
        where = "" if gpu is None or self._run.request.device != "cuda" else f" on GPU {gpu}"
        why = f": {AGAIN}" if step.kind == "train" and is_trained(step) else ""
        _LOG.info("%s begins%s%s", step.name, where, why)

    def waits(self, step: Step, owner: Owner) -> None:
        _LOG.info("%s waits: it is in the hands of %s", step.name, owner)

    def ended(self, step: Step, status: int) -> None:
        now = next(s for s in status_of(self._run, {}) if s.step == step.name)
        dice = "" if now.dice is None else f", Dice {now.dice:.4f}"
        _LOG.info("%s: %s%s%s", step.name, now.state, dice, f": {now.reason}" if now.reason else "")
        if now.state == FAILED:
            _LOG.info("the end of %s:\n  %s", now.log, "\n  ".join(now.tail))

    def running(self) -> None:
        for now in status_of(self._run, {}):
            if now.epoch is not None and now.state == RUNNING:
                _LOG.info("%s: %s", now.step, now.in_short())
