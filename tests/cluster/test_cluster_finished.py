"""What is done and what is to be done again, and by which commands."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from helpers.cross_validations import TINY, asked

from nnunetv2_dsvm.cluster.api import cross_validate
from nnunetv2_dsvm.cluster.commands import commands_of
from nnunetv2_dsvm.cluster.engines import child
from nnunetv2_dsvm.cluster.engines.step_run import FAILED, run_step
from nnunetv2_dsvm.cluster.finished import check_earlier_stages, done_steps, open_steps
from nnunetv2_dsvm.cluster.run_folder import RunFolder, State
from nnunetv2_dsvm.cluster.status import AGAIN, status_of
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.reporting.api import REPORT

BEST, PREDICT = f"best__{TINY}", f"predict__{TINY}"


@pytest.fixture
def here(copied_dataset):
    """A data set with nothing trained on it, to which nnU-Net's variables point."""
    with copied_dataset.here():
        yield copied_dataset


def train(fold: int, trainer: str = "A") -> str:
    return f"train__{TINY}__{trainer}__tinyPlans__2d__fold_{fold}"


def finish(
    here, fold: int, time: float, trainer: str = "A", probabilities: tuple[str, ...] = (), configuration: str = "2d"
) -> Path:
    """A training that ended then, and its validation of two cases; the folder of this."""
    model = here.results / f"{trainer}__tinyPlans__{configuration}"
    validation = model / f"fold_{fold}" / "validation"
    validation.mkdir(parents=True, exist_ok=True)
    (model / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    cases = [{"prediction_file": f"/elsewhere/case_{fold}.{number}.nii.gz"} for number in (0, 1)]
    (validation / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    files = [validation / f"case_{fold}.{number}.npz" for number in probabilities]
    (final := validation.parent / "checkpoint_final.pth").write_bytes(b"weights")
    for file in files:
        file.touch()
    for file in (final, *files, validation / "summary.json"):
        os.utime(file, (time, time))
    return validation


def choose(here, *members: tuple[str, str, str], content: str = "") -> None:
    """What nnU-Net leaves when it has found the best configuration."""
    files = {name: str(here.results / name) for name in ("postprocessing.pkl", "plans.json")}
    here.results.mkdir(parents=True, exist_ok=True)
    for file in files.values():
        Path(file).write_text(content)
    (here.results / "inference_information.json").write_text(json.dumps({"best_model_or_ensemble": {
        "postprocessing_file": files["postprocessing.pkl"], "some_plans_file": files["plans.json"],
        "selected_model_or_models": [{"trainer": t, "plans_identifier": p, "configuration": c} for t, p, c in members],
    }}))  # fmt: skip


def do(run: RunFolder, name: str, started: float = 0, file: str = "case.nii.gz") -> list[list[str]]:
    """Ends a step well, without its commands, which it returns; a prediction leaves a file."""
    step = run.steps[name]
    with commands_of(run, step) as commands:
        if step.kind == "predict":
            (Path(commands[-1][commands[-1].index("-o") + 1]) / file).touch()
    run.write_state(name, State("done", (*step.after, *step.after_any), started=started, ended=started + 10))
    return commands


def test_a_cascade_whose_earlier_stage_would_lack_folds_is_refused_at_once(here, tmp_path):
    both = ("3d_lowres", "3d_cascade_fullres")
    planned = {"configurations": both, "plans": ["nnUNetResEncUNetLPlans"], "device": "cpu"}
    with pytest.raises(UserError, match="A__nnUNetResEncUNetLPlans__3d_lowres predicts in all .* these 2, 3, 4 are"):
        cross_validate([TINY], ["A"], folds=[0, 1], output=tmp_path / "run", **planned)
    request = asked(configurations=both, trainers=("A",), folds=("1",))
    said = r"A__tinyPlans__3d_lowres predicts in all folds, but of these 0, 3, 4 are neither trained nor named with -f"
    finish(here, 2, 100, configuration="3d_lowres")
    with pytest.raises(UserError, match=said):
        check_earlier_stages(request)
    for fold in (0, 3, 4):
        finish(here, fold, 100, configuration="3d_lowres")
    check_earlier_stages(request)
    (here.results / "A__tinyPlans__3d_lowres/fold_4/checkpoint_final.pth").unlink()
    finish(here, 1, 100, configuration="3d_cascade_fullres")
    check_earlier_stages(request)  # nothing is to be trained
    check_earlier_stages(asked(configurations=request.configurations, folds=("all",)))


def test_an_ensemble_is_predicted_member_by_member(here, tmp_path):
    """Also a cascade, whose earlier stage is predicted before it."""
    run = RunFolder(tmp_path / "run").write_request(asked(predicted=(TINY,)))
    choose(here, ("A", "P", "2d"), ("B", "P", "3d_cascade_fullres"))
    do(run, BEST)
    commands = do(run, PREDICT)
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


def test_the_choice_is_this_calls_own(here, tmp_path):
    """nnU-Net keeps one choice a data set: another call's, in another folder on the same results, is not taken."""
    run = RunFolder(tmp_path / "run").write_request(asked(predicted=(TINY,)))
    choose(here, ("A", "P", "2d"), content="ours")
    do(run, BEST)
    choose(here, ("C", "P", "2d"), content="another's")
    predict, postprocess = do(run, PREDICT)
    assert predict[predict.index("-tr") + 1] == "A"
    for option in ("-pp_pkl_file", "-plans_json"):
        assert Path(postprocess[postprocess.index(option) + 1]).read_text() == "ours"


def test_a_call_without_seeds_keeps_the_predictions_of_seeds(here, tmp_path):
    choose(here, ("A", "P", "2d"))
    for seed in (7, 8):
        results = here.results.parent / f"seed_{seed}" / TINY
        results.mkdir(parents=True)
        shutil.copy(here.results / "inference_information.json", results)
    for seeds in ((7,), (), (7, 8)):
        run = RunFolder(tmp_path / "run").write_request(asked(seeds=seeds, predicted=(TINY,)))
        for step in run.steps.values():
            if step.kind in ("best", "predict"):
                do(run, step.name, file=f"{step.seed}.nii.gz")
    predictions = tmp_path / "run" / "predictions"
    assert {path.relative_to(predictions).as_posix() for path in predictions.rglob("*.nii.gz")} == {
        f"{TINY}/None.nii.gz", f"seed_7/{TINY}/7.nii.gz", f"seed_8/{TINY}/8.nii.gz",
    }  # fmt: skip


def test_what_is_finished_is_left_alone(here, tmp_path):
    """A finished fold needs no preprocessed data; what came from folds of before is done again."""
    names, evaluation = [train(fold) for fold in (0, 1)], f"evaluate__{TINY}__A__tinyPlans__2d"
    run = RunFolder(tmp_path / "run").write_request(asked(trainers=("A",)))
    finish(here, 0, 100)
    shutil.rmtree(here.preprocessed / "nnUNetPlans_2d")
    assert done_steps(run) == {names[0]}
    assert [step.name for step in open_steps(run)] == [f"prepare__{TINY}", names[1], BEST, evaluation, "report"]
    finish(here, 1, 200)
    choose(here, ("A", "tinyPlans", "2d"))
    do(run, BEST, 300)
    do(run, evaluation, 500)
    metrics = here.results / "A__tinyPlans__2d" / "crossval_results_folds_0_1"
    metrics.mkdir()
    (metrics / "metrics_nnunet.json").touch()
    assert done_steps(run) == {f"prepare__{TINY}", *names, BEST, evaluation}
    finish(here, 1, 350)
    assert BEST not in done_steps(run)
    assert [step.name for step in open_steps(run)] == [BEST, evaluation, "report"]


def test_a_fold_without_the_probabilities_that_an_ensemble_needs_is_validated_again(here, tmp_path):
    run = RunFolder(tmp_path / "run").write_request(asked())
    finish(here, 0, 100, "A", probabilities=("0", "1"))
    finish(here, 1, 100, "A")
    finish(here, 0, 100, "B", probabilities=("0",))  # interrupted
    old = finish(here, 1, 100, "B", probabilities=("0", "1")) / "case_1.1.npz"
    for time in (50, 150):  # of a training before this one; of a second validation, killed before its end
        os.utime(old, (time, time))
        assert {name for name in done_steps(run) if run.steps[name].kind == "train"} == {train(0, "A")}
    again = status_of(run, {})[2]
    assert (again.step, again.state, again.in_short()) == (train(1, "A"), "queued", AGAIN)
    with commands_of(run, run.steps[train(1, "A")]) as (command,):
        assert command[-2:] == ["--npz", "--val"]
    alone = RunFolder(tmp_path / "alone").write_request(asked(trainers=("B",)))  # no ensemble of one model
    assert done_steps(alone) >= {train(0, "B"), train(1, "B")}

    choose(here, ("A", "tinyPlans", "2d"), ("B", "tinyPlans", "2d"))
    do(run, BEST, 300)  # nnU-Net has had them: they may be removed
    assert done_steps(run) == {f"prepare__{TINY}", *[train(fold, name) for name in "AB" for fold in (0, 1)], BEST}
    with commands_of(run, run.steps[BEST]) as (command,):
        assert "--disable_ensembling" not in command


def test_a_step_whose_files_lack_what_is_asked_for_now_is_done_again(here, tmp_path):
    request = asked(trainers=("A",), predicted=(TINY,))
    run = RunFolder(tmp_path / "run").write_request(request)
    for fold in (0, 1):
        finish(here, fold, 100)
    choose(here, ("A", "tinyPlans", "2d"))
    metrics = here.results / "A__tinyPlans__2d" / "crossval_results_folds_0_1"
    metrics.mkdir()
    names = [BEST, PREDICT, f"evaluate__{TINY}__A__tinyPlans__2d", "report"]
    for number, name in enumerate(names):
        do(run, name, 300 + 100 * number, "case_005.nii.gz")
    for file in (metrics / "metrics_nnunet.json", run.path / "results.md", run.path / "results.csv"):
        file.touch()
    assert [step.name for step in open_steps(run)] == ["report"]
    (run.path / REPORT).touch()
    assert open_steps(run) == []
    isic = run.write_request(asked(trainers=("A",), predicted=(TINY,), protocols=("isic",)))
    assert [step.name for step in open_steps(isic)] == names[2:]
    image = here.raw / "imagesTs" / "case_005_0000.nii.gz"
    shutil.copy(image, image.with_name("case.new_0000.nii.gz"))
    assert [step.name for step in open_steps(run)] == [PREDICT, "report"]
    shutil.rmtree(run.path / "best")
    assert [step.name for step in open_steps(run)] == names


def test_a_fold_that_is_trained_again_is_not_taken_for_validated(here, tmp_path):
    """By the validation of the training before it, whose checkpoint somebody has removed."""
    run = RunFolder(tmp_path / "run").write_request(asked(trainers=("A",)))
    validation = finish(here, 0, 100)
    (final := validation.parent / "checkpoint_final.pth").unlink()
    do(run, train(0))
    final.touch()  # trained, and killed before its validation
    assert train(0) not in done_steps(run)
    assert sorted(path.name for path in validation.iterdir()) == ["earlier_summary.json"]


@pytest.mark.parametrize(
    ("whole", "cut_off", "goes_on"),
    [
        (("best", "latest"), (), ["--c"]),
        (("best",), ("latest",), ["--c"]),
        (("latest",), ("final",), ["--c"]),
        ((), ("best", "latest"), []),
        (("final",), ("latest",), ["--val"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [0, 200], ids=["empty", "half"])
def test_a_checkpoint_that_was_being_written_is_set_aside(whole, cut_off, goes_on, size, here, tmp_path):
    """nnU-Net's own trainers write in place."""
    run = RunFolder(tmp_path / "run").write_request(asked(trainers=("A",)))
    fold = here.results / "A__tinyPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    for name in (*whole, *cut_off):
        torch.save({"network_weights": torch.ones(64)}, file := fold / f"checkpoint_{name}.pth")
        if name in cut_off:
            os.truncate(file, size)
    with commands_of(run, run.steps[train(0)]) as (command,):
        assert command[command.index("cpu") + 1 :] == goes_on
    assert {path.name for path in fold.iterdir()} == {
        *(f"checkpoint_{name}.pth" for name in whole), *(f"unfinished_checkpoint_{name}.pth" for name in cut_off),
    }  # fmt: skip


def test_a_training_that_leaves_no_result_has_failed(here, tmp_path, monkeypatch):
    """As of a trainer without checkpoints, though its command ends well."""
    command = tmp_path / "bin" / "nnUNetv2_train"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command.with_name("python")))
    run = RunFolder(tmp_path / "run").write_request(asked(trainers=("A",)))
    before = {number: signal.getsignal(number) for number in child.STOPS}
    try:
        assert run_step(run, train(0)) == FAILED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert run.state(train(0)).reason.startswith(
        "nnUNetv2_train ended without an error, but fold 0 of A__tinyPlans__2d"
    )


def test_several_gpus_of_a_training_are_nnunets_and_for_slurm(here, tmp_path):
    run = RunFolder(tmp_path / "run").write_request(asked(device="cuda", gpus_per_job=2))
    with commands_of(run, run.steps[train(1)]) as (command,):
        assert command == [
            *["nnUNetv2_train", "901", "2d", "1", "-tr", "A", "-p", "tinyPlans", "-device", "cuda"],
            *["-num_gpus", "2", "--npz"],
        ]
    with pytest.raises(UserError, match="2 GPUs a training: on this machine each has one"):
        cross_validate([901], ["A"], plans=["tinyPlans"], gpus_per_job=2)
