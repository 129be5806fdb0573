"""The model or ensemble that predicts: nnU-Net's choice, or the only one that there is."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2_dsvm.cluster.preparation import dataset_number, processes_of_a_command
from nnunetv2_dsvm.cluster.progress import undefined_classes
from nnunetv2_dsvm.cluster.request import Model, Request
from nnunetv2_dsvm.cluster.run_folder import RunFolder, model_folder, results_folder
from nnunetv2_dsvm.cluster.steps import Step
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import replaced_folder
from nnunetv2_dsvm.files.json_files import read_json_object, write_json
from nnunetv2_dsvm.nnunet.names import GROUND_TRUTH, PLANS_JSON

INFORMATION, POSTPROCESSING = "inference_information.json", "postprocessing.pkl"  # of nnU-Net's choice
_BEST = "best_model_or_ensemble"


class Member(NamedTuple):
    """A model that predicts, alone or with others."""

    trainer: str
    plans: str
    configuration: str


@contextmanager
def choosing(run: RunFolder, step: Step) -> Iterator[list[list[str]]]:
    """The commands that choose, from the folds that were asked for; the choice is kept when the block ends.

    nnU-Net compares foreground means and fails where the first of them is NaN, as it is where a class is in none of the
    cases nor predicted there. One model alone needs no comparison: only its postprocessing is determined then.

    Raises:
        UserError: nnU-Net could not compare the models, or a file cannot be read.
    """
    request, models = run.request, run.request.models(step.dataset, step.seed)
    undefined = undefined_classes([model_folder(models[0]).validation_folder(fold) for fold in request.folds])
    if not undefined:
        yield [_find_best(request, step)]
        _keep(run, step, read_json_object(results_folder(step.seed) / step.dataset / INFORMATION))
    elif len(models) == 1:
        together = model_folder(models[0]).metrics_folder(request.folds)
        yield _without_comparison(request, models[0], together)
        _keep(run, step, _only(models[0], together))
    else:
        raise UserError(
            f"nnU-Net cannot compare the models: the Dice of {models[0].folder_name} is undefined in the folds "
            f"{', '.join(request.folds)}, of whose cases none has class {', '.join(undefined)}, nor was it predicted. "
            "Take folds that have it (-f), or one model alone (-tr, -c, -p), which predicts without a comparison"
        )


def members(choice: Path) -> list[Member]:
    """Those of a choice that was kept in this folder.

    Raises:
        UserError: it cannot be read.
    """
    chosen = read_json_object(choice / INFORMATION)[_BEST]["selected_model_or_models"]
    return [Member(one["trainer"], one["plans_identifier"], one["configuration"]) for one in chosen]


def _find_best(request: Request, step: Step) -> list[str]:
    return [
        "nnUNetv2_find_best_configuration", dataset_number(step.dataset), "-c", *request.configurations,
        "-tr", *request.trainers, "-p", *request.plans, "-f", *request.folds, "-np", processes_of_a_command(),
        *([] if request.ensembles else ["--disable_ensembling"]),
    ]  # fmt: skip


def _without_comparison(request: Request, model: Model, together: Path) -> list[list[str]]:
    """What nnU-Net does before and after it compares; `together` is where it puts the predictions of the folds."""
    truth = Path(os.environ["nnUNet_preprocessed"]) / model.dataset / GROUND_TRUTH
    return [
        [
            "nnUNetv2_accumulate_crossval_results", dataset_number(model.dataset), "-c", model.configuration,
            "-tr", model.trainer, "-p", model.plans, "-f", *request.folds,
        ],
        [
            "nnUNetv2_determine_postprocessing", "-i", str(together), "-ref", str(truth),
            "-np", processes_of_a_command(),
        ],
    ]  # fmt: skip


def _only(model: Model, together: Path) -> dict[str, Any]:
    """The only model, as nnU-Net writes a choice down."""
    best = {
        "postprocessing_file": str(together / POSTPROCESSING),
        "some_plans_file": str(together / PLANS_JSON),
        "selected_model_or_models": [
            {"trainer": model.trainer, "plans_identifier": model.plans, "configuration": model.configuration}
        ],
    }
    return {_BEST: best}


def _keep(run: RunFolder, step: Step, information: dict[str, Any]) -> None:
    best, final = information[_BEST], run.choice(step.dataset, step.seed)
    final.parent.mkdir(parents=True, exist_ok=True)
    with replaced_folder(final) as partial:
        write_json(partial / INFORMATION, information, indent=4)
        shutil.copyfile(best["postprocessing_file"], partial / POSTPROCESSING)
        shutil.copyfile(best["some_plans_file"], partial / PLANS_JSON)
