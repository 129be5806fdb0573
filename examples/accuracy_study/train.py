"""One training of the study in a process of its own; `run.py` begins it.

    python examples/accuracy_study/train.py RUN_FOLDER PLAN RESULTS DEVICE NAME

After nnU-Net's validation its cases are measured; what goes into the CSV files is left in the run folder.
"""

import sys
import time
from pathlib import Path

from study_run import StudyRun

from nnunetv2_dsvm.cluster.engines import child
from nnunetv2_dsvm.cluster.engines.step_run import DONE, FAILED, INTERRUPTED, run_step
from nnunetv2_dsvm.cluster.progress import training_progress
from nnunetv2_dsvm.cluster.run_folder import model_folder
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import write_json


def main(folder: str, plan_file: str, results: str, device: str, name: str) -> int:
    """The exit status of `run_step`."""
    begun = time.monotonic()
    run = StudyRun(Path(folder), Path(plan_file), Path(results), device)
    training, step = run.trainings[name], run.steps[name]
    assert step.model is not None  # a training has one
    was_begun = training_progress(model_folder(step.model).fold_folder(step.fold)) is not None
    status = run_step(run, name)
    if status != DONE:
        return status
    try:
        from measure import outcome  # imports torch, which would wait in memory beside each training

        wall_seconds = None if was_begun else time.monotonic() - begun
        in_voxels = run.plan.datasets[training.dataset]["distances"] != "mm"
        rows = outcome(training, in_voxels=in_voxels, wall_seconds=wall_seconds)
        write_json(run.outcomes / f"{name}.json", rows, indent=0)
    except child.Stopped:
        return INTERRUPTED
    except UserError as error:
        print(error, flush=True)
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
