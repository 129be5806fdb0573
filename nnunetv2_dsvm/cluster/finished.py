"""Which steps need not be done: trainings that are finished, whoever ran them, and work that is still up to date."""

from pathlib import Path

from nnunetv2_dsvm.cluster.preparation import has_splits, missing_commands
from nnunetv2_dsvm.cluster.progress import SUMMARY
from nnunetv2_dsvm.cluster.run_folder import RunFolder, model_folder
from nnunetv2_dsvm.cluster.steps import Step
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.names import FINAL


def is_done(run: RunFolder, step: Step) -> bool:
    """Whether a step has nothing to do.

    A fold is trained, and a data set prepared, where the files are there, the latter also where all that would be
    trained on it is trained. All else is done where it was done after what it depends on, and that is the same now.
    What cannot be read is not done: the step itself will say why.
    """
    try:
        return _is_done(run, step)
    except UserError:
        return False


def _is_done(run: RunFolder, step: Step) -> bool:
    if step.kind == "prepare":
        trainings = [other for other in run.steps.values() if other.kind == "train" and other.dataset == step.dataset]
        if all(_is_done(run, training) for training in trainings):
            return True
        has_folds = run.request.folds == ("all",) or has_splits(step.dataset)
        return has_folds and not missing_commands(step.dataset, run.request)
    if step.kind == "train":
        return is_trained(step)
    state, before = run.state(step.name), (*step.after, *step.after_any)
    if state is None or state.state != "done" or state.after != before:
        return False
    return all(state.started >= _finished_at(run, run.steps[name]) for name in before)


def is_trained(step: Step) -> bool:
    """Whether a training has ended, with its validation."""
    return _validation(step).is_file() and (_fold(step) / FINAL).is_file()


def done_steps(run: RunFolder) -> set[str]:
    """The names of all steps that have nothing to do, nor has anything that they depend on; a training is for ever."""
    done: set[str] = set()
    for step in run.steps.values():
        if (step.kind == "train" or done.issuperset(step.after)) and is_done(run, step):
            done.add(step.name)
    return done


def open_steps(run: RunFolder) -> list[Step]:
    """What a call has to look at, in order: what is not done, and what depends on it and may become outdated."""
    done, still_open = done_steps(run), dict[str, Step]()
    for step in run.steps.values():
        may_become_outdated = step.kind not in ("prepare", "train")
        behind_open = not still_open.keys().isdisjoint((*step.after, *step.after_any))
        if step.name not in done or (may_become_outdated and behind_open):
            still_open[step.name] = step
    return list(still_open.values())


def _finished_at(run: RunFolder, step: Step) -> float:
    """Seconds since 1970; 0 where it has not ended."""
    if step.kind == "train":
        return _validation(step).stat().st_mtime if _validation(step).is_file() else 0.0
    state = run.state(step.name)
    return state.ended if state is not None else 0.0


def _validation(step: Step) -> Path:
    assert step.model is not None  # a training has one
    return model_folder(step.model).validation_folder(step.fold) / SUMMARY


def _fold(step: Step) -> Path:
    assert step.model is not None  # a training has one
    return model_folder(step.model).fold_folder(step.fold)
