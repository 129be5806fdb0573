"""What is done and what is to be done again, and by which commands."""

import json
import os
import shutil
from pathlib import Path

from helpers.cross_validations import TINY, asked

from nnunetv2_dsvm.cluster.commands import commands_of
from nnunetv2_dsvm.cluster.finished import done_steps, open_steps
from nnunetv2_dsvm.cluster.run_folder import RunFolder, State


def test_an_ensemble_is_predicted_member_by_member(copied_dataset, tmp_path):
    """Also a cascade, whose earlier stage is predicted before it."""
    copied_dataset.results.mkdir(parents=True)
    members = [("A", "P", "2d"), ("B", "P", "3d_cascade_fullres")]
    (copied_dataset.results / "inference_information.json").write_text(json.dumps({"best_model_or_ensemble": {
        "postprocessing_file": "p.pkl", "some_plans_file": "plans.json", "selected_model_or_models":
        [{"trainer": t, "plans_identifier": p, "configuration": c} for t, p, c in members],
    }}))  # fmt: skip
    with copied_dataset.here():
        run = RunFolder(tmp_path / "run").write_request(asked(predicted=(TINY,)))
        with commands_of(run, run.steps[f"predict__{TINY}"]) as commands:
            output = Path(commands[-1][commands[-1].index("-o") + 1])
            (output / "case.nii.gz").touch()
    assert [command[0] for command in commands] == [
        *["nnUNetv2_predict"] * 3,
        "nnUNetv2_ensemble",
        "nnUNetv2_apply_postprocessing",
    ]
    first, low, cascade, ensemble, _ = (" ".join(command) for command in commands)
    assert "-tr A -p P -c 2d -f 0 1 -device cpu --save_probabilities" in first
    assert "-tr B -p P -c 3d_lowres" in low and "--save_probabilities" not in low
    earlier = commands[1][commands[1].index("-o") + 1]
    assert cascade.endswith(f"--save_probabilities -prev_stage_predictions {earlier}")
    assert [commands[i][commands[i].index("-o") + 1] for i in (0, 2)] == commands[3][2:4] and "-o" in ensemble
    assert [path.name for path in (tmp_path / "run" / "predictions").rglob("*")] == [TINY, "case.nii.gz"]


def test_what_is_finished_is_left_alone(copied_dataset, tmp_path):
    """A finished fold needs no preprocessed data; what came from folds of before is done again."""
    names = [f"train__{TINY}__A__tinyPlans__2d__fold_{fold}" for fold in (0, 1)]
    evaluation = f"evaluate__{TINY}__A__tinyPlans__2d"

    def finish(fold: int, time: float) -> None:
        validation = copied_dataset.results / "A__tinyPlans__2d" / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True, exist_ok=True)
        (validation.parent / "checkpoint_final.pth").touch()
        (validation / "summary.json").touch()
        os.utime(validation / "summary.json", (time, time))

    with copied_dataset.here():
        run = RunFolder(tmp_path / "run").write_request(asked(trainers=("A",)))
        finish(0, 100)
        shutil.rmtree(copied_dataset.preprocessed / "nnUNetPlans_2d")
        assert done_steps(run) == {names[0]}
        assert [step.name for step in open_steps(run)] == [
            f"prepare__{TINY}", names[1], f"best__{TINY}", evaluation, "report",
        ]  # fmt: skip
        finish(1, 200)
        best = run.steps[f"best__{TINY}"]
        run.write_state(best.name, State("done", best.after, started=300, ended=400))
        step = run.steps[evaluation]
        run.write_state(evaluation, State("done", (*step.after, *step.after_any), started=500, ended=600))
        assert done_steps(run) == {f"prepare__{TINY}", *names, best.name, evaluation}
        finish(1, 350)
        assert best.name not in done_steps(run)
        assert [step.name for step in open_steps(run)] == [best.name, evaluation, "report"]
