"""Where every step of a cross-validation stands, put together from what is on the disk and in SLURM's queue."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nnunetv2_dsvm.cluster.finished import done_steps, is_trained
from nnunetv2_dsvm.cluster.locks import owner_of
from nnunetv2_dsvm.cluster.progress import training_progress, undefined_classes, validation_dice
from nnunetv2_dsvm.cluster.run_folder import RunFolder, State, model_folder
from nnunetv2_dsvm.cluster.steps import Step

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
INTERRUPTED, CANCELLED, BLOCKED = "interrupted", "cancelled", "blocked"
AGAIN = "validated again, for the probabilities that ensembles need"  # a training that was finished without them


@dataclass(frozen=True)
class StepStatus:
    """Of one step. What does not apply, or is not known, is empty or None.

    Args:
        step: its name.
        kind, dataset, trainer, plans, configuration, fold, seed: what it is about.
        state: queued, running, done, failed, interrupted, cancelled, or blocked by one that it depends on.
        job: of SLURM.
        by: who runs it.
        epoch, epochs, pseudo_dice, seconds_per_epoch, seconds_left: of a training that runs or was interrupted.
        dice: of a finished training's validation, nnU-Net's foreground mean; None where a class has none.
        reason: why it failed, does not begin, or has no Dice.
        tail: the last lines of the log of one that failed.
        log: its file.
    """

    step: str
    kind: str
    dataset: str
    trainer: str
    plans: str
    configuration: str
    fold: str
    seed: int | None
    state: str
    job: str = ""
    by: str = ""
    epoch: int | None = None
    epochs: int | None = None
    pseudo_dice: float | None = None
    seconds_per_epoch: float | None = None
    seconds_left: float | None = None
    dice: float | None = None
    reason: str = ""
    tail: tuple[str, ...] = ()
    log: str = ""

    def in_short(self) -> str:
        """What is to be said beside the state: progress, Dice or reason."""
        if self.dice is not None:
            return f"Dice {self.dice:.4f}"
        if self.epoch is None:
            return self.reason
        parts = [f"epoch {self.epoch + 1} of {self.epochs or '?'}"]
        if self.pseudo_dice is not None:
            parts.append(f"pseudo Dice {self.pseudo_dice:.4f}")
        if self.seconds_per_epoch is not None:
            parts.append(f"{self.seconds_per_epoch:.3g} s an epoch")
        if self.seconds_left is not None and self.state == RUNNING:
            parts.append(f"{shown_hours(self.seconds_left)} left")
        return ", ".join([*parts, *([self.reason] if self.reason else [])])

    def as_json(self) -> dict[str, Any]:
        """JSON has no NaN."""
        values = asdict(self).items()
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values}


def shown_hours(seconds: float) -> str:
    """`3:07 h`."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"


def status_of(run: RunFolder, queue: Mapping[str, str]) -> list[StepStatus]:
    """Of every step, in their order.

    Args:
        queue: SLURM's word for each of its jobs that has not ended, by the job's number.
    """
    done, jobs, found = done_steps(run), run.jobs(), dict[str, StepStatus]()
    for step in run.steps.values():
        job = jobs.get(step.name, "")
        in_queue = queue.get(job, "")
        stopping = [name for name in step.after if found[name].state in (FAILED, BLOCKED, CANCELLED)]
        state, reason, owner = run.state(step.name), "", owner_of(run.step_lock(step))
        if step.name in done:
            how = DONE
        elif owner is not None:
            how = RUNNING
        elif in_queue and not in_queue.startswith(("RUNNING", "COMPLETING")):
            how, reason = QUEUED, in_queue.removeprefix("PENDING").strip()
        elif in_queue:
            how = RUNNING
        elif stopping:
            more = f" and {len(stopping) - 1} more" if len(stopping) > 1 else ""
            how, reason = BLOCKED, f"needs {stopping[0]}{more}"
        else:
            how, reason = _of_state(state)
        if step.kind == "train" and how in (QUEUED, RUNNING) and is_trained(step):
            reason = reason or AGAIN
        found[step.name] = StepStatus(
            step.name,
            step.kind,
            step.dataset,
            *((step.model.trainer, step.model.plans, step.model.configuration) if step.model else ("", "", "")),
            step.fold,
            step.seed,
            how,
            job=job if in_queue else "",
            by=str(owner) if owner is not None else "",
            tail=state.tail if how == FAILED and state is not None else (),
            log=str(run.log(step.name)) if run.log(step.name).is_file() else "",
            **{"reason": reason, **_of_training(step, how)},
        )
    return list(found.values())


def _of_state(state: State | None) -> tuple[str, str]:
    """Of a step that nobody is at."""
    if state is None or state.state == DONE:  # a step that is out of date is to be done again
        return QUEUED, ""
    if state.state == RUNNING:
        return INTERRUPTED, f"its process has ended without a word: {state.process}"
    return state.state, state.reason


def _of_training(step: Step, how: str) -> dict[str, Any]:
    if step.kind != "train" or step.model is None:
        return {}
    model = model_folder(step.model)
    if how == DONE:
        validation = model.validation_folder(step.fold)
        dice = validation_dice(validation)
        if dice is None or not math.isnan(dice):
            return {"dice": dice}
        classes = ", ".join(undefined_classes([validation]))
        return {"reason": f"Dice undefined: class {classes} is neither in its cases nor predicted"}
    begun = how in (RUNNING, INTERRUPTED, QUEUED) and not is_trained(step)
    progress = training_progress(model.fold_folder(step.fold)) if begun else None
    if progress is None:
        return {}
    return {
        "epoch": progress.epoch,
        "epochs": progress.epochs,
        "pseudo_dice": progress.pseudo_dice,
        "seconds_per_epoch": progress.seconds_per_epoch,
        "seconds_left": progress.seconds_left,
    }
