"""Whether nnU-Net finds the trainers: asked before anything is begun, not by each training hours later."""

import os

from nnunetv2_dsvm.autoregister import VARIABLE
from nnunetv2_dsvm.cluster.finished import has_probabilities, is_trained
from nnunetv2_dsvm.cluster.request import Request
from nnunetv2_dsvm.cluster.steps import steps_of
from nnunetv2_dsvm.diagnostics.subprocess_probe import ProbeFailed, run_probe_file
from nnunetv2_dsvm.diagnostics.trainers import PROBE
from nnunetv2_dsvm.errors import UserError


def check_trainers(request: Request) -> None:
    """Looks for each trainer with a fold to train or to validate, as `nnUNetv2_train` does, in a process of its own.

    Raises:
        UserError: nnU-Net does not find one, or its look-up fails.
    """
    trainings = [step for step in steps_of(request) if step.kind == "train"]
    still_open = [s for s in trainings if not is_trained(s) or (request.ensembles and not has_probabilities(s))]
    names = list(dict.fromkeys(step.model.trainer for step in still_open if step.model is not None))
    if not names:
        return
    listed = os.environ.get(VARIABLE, "")  # the probe runs in another folder than this process
    folders = os.pathsep.join(os.path.abspath(entry) for entry in listed.split(os.pathsep) if entry.strip())
    try:
        found = run_probe_file(PROBE, *names, variables={VARIABLE: folders} if folders else {})
    except ProbeFailed as failure:
        raise UserError(
            f"nnU-Net cannot look for trainers: {failure} (nnUNetv2_dsvm doctor looks at the installation)"
        ) from None
    for name in names:
        error = found[name]["error"]
        if error is not None and "Could not find requested nnunet trainer" in error:
            raise UserError(
                f"nnU-Net finds no trainer {name}: nnUNetv2_dsvm trainers lists those of this package and of the "
                f"folders in {VARIABLE}, which is {listed or 'empty'}"
            )
        if error is not None:
            raise UserError(f"nnU-Net's look-up of the trainer {name} fails: {error}")
