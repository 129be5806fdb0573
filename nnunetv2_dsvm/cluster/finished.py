"""Which steps need not be done: trainings that are finished, whoever ran them, and work that is still up to date."""

import os
from pathlib import Path

from nnunetv2_dsvm.cluster.preparation import has_splits, missing_commands
from nnunetv2_dsvm.cluster.progress import SUMMARY
from nnunetv2_dsvm.cluster.request import BEFORE_CASCADE, CASCADE, Request, folds_of_dataset
from nnunetv2_dsvm.cluster.run_folder import RESULTS, RunFolder, model_folder
from nnunetv2_dsvm.cluster.steps import Step, steps_of
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, FINAL


def is_done(run: RunFolder, step: Step) -> bool:
    """Whether a step has nothing to do.

    A fold is trained, and a data set prepared, where the files are there, the latter also where all that would be
    trained on it is trained. All else is done where it was done after what it depends on, that is the same now, and
    what is asked for is there. What cannot be read is not done: the step itself will say why.
    """
    try:
        return _is_done(run, step)
    except (UserError, OSError):
        return False


def _is_done(run: RunFolder, step: Step) -> bool:
    if step.kind == "prepare":
        trainings = [other for other in run.steps.values() if other.kind == "train" and other.dataset == step.dataset]
        if all(_is_done(run, training) for training in trainings):
            return True
        has_folds = run.request.folds == ("all",) or has_splits(step.dataset)
        return has_folds and not missing_commands(step.dataset, run.request)
    if step.kind == "train":
        return is_trained(step) and not _lacks_probabilities(run, step)
    return _is_up_to_date(run, step) and _is_there(run, step)


def _is_up_to_date(run: RunFolder, step: Step) -> bool:
    state, before = run.state(step.name), (*step.after, *step.after_any)
    if state is None or state.state != "done" or state.after != before:
        return False
    return all(state.started >= _finished_at(run, run.steps[name]) for name in before)


def _is_there(run: RunFolder, step: Step) -> bool:
    """Whether a step's files are: somebody may have removed them, or ask for more than the step once made."""
    request = run.request
    if step.kind == "best":
        return run.choice(step.dataset, step.seed).is_dir()
    if step.kind == "predict":
        return _images_to_predict(step.dataset) <= {
            file.name for file in visible_files(run.predictions(step.dataset, step.seed))
        }
    if step.kind == "evaluate":
        assert step.model is not None  # an evaluation has one
        folder = model_folder(step.model).metrics_folder(request.folds)
        return all((folder / f"metrics_{name}.json").is_file() for name in ("nnunet", *request.protocols))
    ended = (
        s for s in run.steps.values() if s.kind == "evaluate" and all(_is_validated(run, name) for name in s.after)
    )
    reports = {run.report(of.dataset, of.seed) / "report.html" for of in ended}
    return all(path.is_file() for path in (run.path / RESULTS, run.path / "results.csv", *reports))


def _is_validated(run: RunFolder, name: str) -> bool:
    return _validation(run.steps[name]).is_file()


def _images_to_predict(dataset: str) -> set[str]:
    """The names that their predictions have: `case.nii.gz` of `case_0000.nii.gz`."""
    folder = Path(os.environ["nnUNet_raw"]) / dataset
    ending = str(read_json_object(folder / DATASET_JSON).get("file_ending", ""))
    channel = len("_0000")
    files = visible_files(folder / "imagesTs", ending)
    return {file.name.removesuffix(ending)[:-channel] + ending for file in files}


def is_trained(step: Step) -> bool:
    """Whether a training has ended, with its validation."""
    return _validation(step).is_file() and (_fold(step) / FINAL).is_file()


def check_earlier_stages(request: Request) -> None:
    """Raises UserError where a cascade could never begin: it reads what the stage before predicts in all folds."""
    trainings = [step for step in steps_of(request) if step.kind == "train" and not is_trained(step)]
    models = dict.fromkeys(step.model for step in trainings if step.model is not None)
    open_cascades = [model for model in models if model.configuration == CASCADE]
    for model in open_cascades if request.folds != ("all",) else ():
        before = model._replace(configuration=BEFORE_CASCADE)
        others = [fold for fold in folds_of_dataset(model.dataset) if fold not in request.folds]
        steps = [Step("", "train", model.dataset, model.seed, before, fold) for fold in others]
        if lacking := [step.fold for step in steps if not is_trained(step)]:
            raise UserError(
                f"{CASCADE} of {model.dataset} reads what {before.folder_name} predicts in all folds, but of these "
                f"{', '.join(lacking)} are neither trained nor named with -f: name all folds, or leave out the cascade"
            )


def has_probabilities(step: Step) -> bool:
    """Whether the validation of a finished training has left them for each of its cases (nnU-Net's `--npz`).

    They are younger than the training's last weights and older than the summary, which nnU-Net writes last: what is
    younger is of a later validation, which has not come to its end.
    """
    assert step.model is not None  # a training has one
    model = model_folder(step.model)
    trained_at, validated_at = (_fold(step) / FINAL).stat().st_mtime, _validation(step).stat().st_mtime
    ending = model.dataset_json.get("file_ending", "")
    there = visible_files(_validation(step).parent, ".npz")
    names = {file.name.removesuffix(".npz") for file in there if trained_at <= file.stat().st_mtime <= validated_at}
    predicted = [
        Path(case["prediction_file"]).name for case in read_json_object(_validation(step)).get("metric_per_case", ())
    ]
    return names.issuperset(name.removesuffix(ending) for name in predicted)


def _lacks_probabilities(run: RunFolder, step: Step) -> bool:
    """Whether the best configuration, which tries ensembles, is still to be found, and cannot for want of them."""
    best = [s for s in run.steps.values() if s.kind == "best" and (s.dataset, s.seed) == (step.dataset, step.seed)]
    return run.request.ensembles and not _is_done(run, best[0]) and not has_probabilities(step)


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
