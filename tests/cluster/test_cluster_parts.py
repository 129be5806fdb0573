"""The parts of a cross-validation, each by itself: request and steps, locks, progress, plans, GPUs, results."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.report_models import SECONDS, Drawn, make_model
from helpers.short_trainers import ShortVMUNet
from scipy import stats

from nnunetv2_dsvm.cluster.api import cross_validate
from nnunetv2_dsvm.cluster.commands import commands_of
from nnunetv2_dsvm.cluster.engines import child, step_run
from nnunetv2_dsvm.cluster.engines.gpus import GpuMemory, visible_gpus
from nnunetv2_dsvm.cluster.engines.slurm import minutes_of
from nnunetv2_dsvm.cluster.finished import done_steps, open_steps
from nnunetv2_dsvm.cluster.locks import Held, held, owner_of
from nnunetv2_dsvm.cluster.preparation import check_plans, missing_commands, write_splits
from nnunetv2_dsvm.cluster.progress import training_progress, validation_dice
from nnunetv2_dsvm.cluster.request import Request, checked_request
from nnunetv2_dsvm.cluster.results import write_results
from nnunetv2_dsvm.cluster.run_folder import RunFolder, State
from nnunetv2_dsvm.cluster.steps import steps_of
from nnunetv2_dsvm.cluster.trainers import check_trainers
from nnunetv2_dsvm.errors import UserError

TINY = "Dataset901_Tiny"


def asked(**changes) -> Request:
    values = {
        "datasets": (TINY,), "plans": ("tinyPlans",), "configurations": ("2d",), "trainers": ("A", "B"),
        "folds": ("0", "1"), "device": "cpu",
    }  # fmt: skip
    return Request(**{**values, **changes})


def test_steps_wait_for_what_they_need():
    request = asked(
        datasets=("Dataset001_X", "Dataset002_Y"), configurations=("3d_cascade_fullres", "3d_lowres"), trainers=("A",),
        seeds=(1, 2), predicted=("Dataset002_Y",),
    )  # fmt: skip
    steps = {step.name: step for step in steps_of(request)}
    names = list(steps)
    for step in steps.values():
        assert all(names.index(name) < names.index(step.name) for name in (*step.after, *step.after_any))
    kinds = [step.kind for step in steps.values()]
    # 2 data sets × 2 seeds × 2 configurations × 2 folds
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "prepare": 2, "train": 16, "best": 4, "predict": 2, "evaluate": 8, "report": 1,
    }  # fmt: skip
    cascade = steps["train__Dataset002_Y__A__tinyPlans__3d_cascade_fullres__seed_2__fold_1"]
    low = [f"train__Dataset002_Y__A__tinyPlans__3d_lowres__seed_2__fold_{fold}" for fold in (0, 1)]
    assert cascade.after == ("prepare__Dataset002_Y", *low)
    assert len(steps["best__Dataset001_X__seed_1"].after) == 4
    evaluation = steps["evaluate__Dataset001_X__A__tinyPlans__3d_lowres__seed_1"]
    assert evaluation.after_any == ("best__Dataset001_X__seed_1",) and len(evaluation.after) == 2


def test_one_fold_has_no_best_configuration():
    assert [step.kind for step in steps_of(asked(folds=("all",), predicted=(TINY,)))] == [
        "prepare", "train", "train", "evaluate", "evaluate", "report",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"datasets": ["77"]}, "there is no data set 77 in "),
        ({"trainers": ["A", "A"]}, "trainers named twice: A"),
        ({"datasets": ["901", TINY]}, f"datasets named twice: {TINY}"),
        ({"folds": ["0", "all"]}, "-f all is a model of its own"),
        ({"folds": ["4", "5"]}, f"{TINY} has no fold 5, its folds are 0, 1, 2, 3, 4: beyond them nnU-Net validates"),
        ({"protocols": ["isic", "isic"]}, "protocols named twice: isic"),
        ({"configurations": ["3d_cascade_fullres"]}, "reads what 3d_lowres predicts in all folds: name both"),
        ({"seeds": [-1]}, "seeds are integers from 0, got -1"),
        ({"gpus_per_job": 2}, "2 GPUs a training with -device cpu"),
    ],
)
def test_what_cannot_be_begun_is_refused(tiny_dataset, changes, said):
    values = {
        "datasets": ["901"], "configurations": ["2d"], "trainers": ["A"], "plans": ["tinyPlans"], "folds": ["0"],
        "seeds": [], "device": "cpu", "gpus_per_job": 1, "protocols": [],
    }  # fmt: skip
    with tiny_dataset.here(nnUNet_results=str(tiny_dataset.results.parent)):
        request = checked_request(**values)
        assert request.datasets == request.predicted == (TINY,)
        assert Request.from_json(json.loads(json.dumps(request.as_json()))) == request
        assert checked_request(**{**values, "folds": None}).folds == ("0", "1", "2", "3", "4")
        with pytest.raises(UserError, match=said):
            checked_request(**{**values, **changes})


def test_what_a_dataset_lacks_is_made(copied_dataset):
    folder = copied_dataset.preprocessed
    processes = ["-np", "1", "-npfp", "1"]  # of nnUNet_def_n_proc
    with copied_dataset.here():
        assert missing_commands(TINY, asked()) == []
        next((folder / "nnUNetPlans_2d").glob("*.pkl")).unlink()  # as an interrupted preprocessing leaves it
        again = ["nnUNetv2_preprocess", "-d", "901", "-plans_name", "tinyPlans", "-c", "2d", *processes[:2]]
        assert missing_commands(TINY, asked()) == [again]
        (folder / "tinyPlans.json").unlink()
        with pytest.raises(
            UserError, match=r"tinyPlans\.json: make these plans first; what can be made here is nnUNetPl"
        ):
            check_plans(asked())
        new = ["nnUNetResEncUNetLPlans", "nnUNetDSVMPlans"]
        check_plans(asked(plans=new))
        commands = missing_commands(TINY, asked(plans=new, configurations=("2d", "3d_fullres")))
        plan = ["nnUNetv2_plan_and_preprocess", "-d", "901", "-pl", "nnUNetPlannerResEncL", "-c", "2d", "3d_fullres"]
        assert commands[0] == [*plan, "--verify_dataset_integrity", *processes]
        assert commands[1][:4] == ["nnUNetv2_dsvm", "plan_and_preprocess", "-d", "901"]
        with pytest.raises(UserError, match=r"nnUNetPlans\.json has no configuration 3d_lowres; it has 2d, 3d_fullres"):
            check_plans(asked(plans=["nnUNetPlans"], configurations=("2d", "3d_lowres")))


def test_a_trainer_that_nnunet_does_not_find_is_refused_before_anything_is_begun(copied_dataset):
    request = asked(trainers=("../B",))
    with copied_dataset.here():
        with pytest.raises(UserError, match=r"nnU-Net finds no trainer \.\./B: nnUNetv2_dsvm trainers lists"):
            check_trainers(asked(trainers=("nnUNetTrainerDSVM", "../B")))  # the first is found
        for fold in request.folds:
            validation = copied_dataset.results / "../B__tinyPlans__2d" / f"fold_{fold}" / "validation"
            validation.mkdir(parents=True)
            (validation / "summary.json").touch()
            (validation.parent / "checkpoint_final.pth").touch()
        check_trainers(request)  # what is trained needs no trainer


@pytest.mark.parametrize("gpu", ["", "0,1"])
def test_a_gpu_is_one(tiny_dataset, gpu):
    with tiny_dataset.here(), pytest.raises(UserError, match=f"a GPU is one number or UUID.*got '{gpu}'"):
        cross_validate([901], ["A"], plans=["tinyPlans"], device="cpu", gpus=[gpu])


def test_a_command_that_was_killed_is_said_to_be():
    killed = subprocess.run(["sh", "-c", "kill -9 $$"]).returncode
    assert str(step_run.failure("nnUNetv2_train", killed)).startswith("nnUNetv2_train was killed (SIGKILL)")
    assert str(step_run.failure("nnUNetv2_train", 1)) == "nnUNetv2_train failed"


def test_the_folds_are_those_that_nnunet_draws(copied_dataset, make_on):
    splits = copied_dataset.preprocessed / "splits_final.json"
    with copied_dataset.here():
        write_splits(TINY, asked())
    ours = json.loads(splits.read_text())
    splits.unlink()
    make_on(copied_dataset, ShortVMUNet).do_split()
    assert ours == json.loads(splits.read_text()) and len(ours) == 5


def test_a_lock_is_its_owners_until_the_owner_ends(tmp_path):
    lock = tmp_path / "below" / "lock"
    hold = f"""
import time
from pathlib import Path

from nnunetv2_dsvm.cluster.locks import held

with held(Path({str(lock)!r}), "it"):
    print(1, flush=True)
    time.sleep(99)
"""
    owner = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    owner.stdout.readline()
    assert owner_of(lock).pid == owner.pid
    said = rf"the fold is in the hands of \w+ on {os.uname().nodename} \(process {owner.pid}, since"
    with pytest.raises(Held, match=said), held(lock, "the fold"):
        pass
    owner.kill()
    owner.wait()
    assert owner_of(lock) is None
    with held(lock, "the fold") as descriptor:  # and of whatever inherits it
        heir = subprocess.Popen(["sleep", "99"], pass_fds=[descriptor])
        os.link(lock, tmp_path / "inherited")
    assert owner_of(tmp_path / "inherited").pid == os.getpid()
    heir.kill()
    heir.wait()
    assert owner_of(tmp_path / "inherited") is None and not lock.exists()


LOG = """
2026-01-02 03:04:05.000001: Epoch 3
2026-01-02 03:04:05.000001: Current learning rate: 0.01
2026-01-02 03:04:15.000001: train_loss -0.5
2026-01-02 03:04:15.000001: Pseudo dice [np.float32(0.5), nan, np.float64(7e-1)]
2026-01-02 03:04:15.000001: Epoch time: 10.5 s

2026-01-02 03:04:15.000001: Epoch 4
"""


def test_progress_is_what_nnunet_writes(tmp_path):
    assert training_progress(tmp_path) is None and validation_dice(tmp_path / "validation") is None
    (tmp_path / "training_log_2026_1_2_03_04_04.txt").write_text(LOG)
    progress = training_progress(tmp_path)
    assert (progress.epoch, progress.epochs, progress.seconds_left) == (4, None, None)
    assert progress.pseudo_dice == pytest.approx(0.6) and progress.seconds_per_epoch == 10.5
    (tmp_path / "debug.json").write_text('{"num_epochs": "10"}')
    newer = tmp_path / "training_log_2026_1_2_04_00_00.txt"
    newer.write_text("a training that has not yet begun an epoch")
    os.utime(newer, (2e9, 2e9))
    assert training_progress(tmp_path).seconds_left == 6 * 10.5
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "summary.json").write_text('{"foreground_mean": {"Dice": 0.25}}')
    assert validation_dice(tmp_path / "validation") == 0.25


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("48:00:00", 2880),
        ("00:10:30", 11),
        ("10:30", 11),
        ("2-12", 3600),
        ("1-01:30", 1530),
        ("1-0:0:1", 1441),
    ],
)
def test_times_are_sbatchs(text, minutes):
    assert minutes_of(text) == minutes


def test_gpus_are_those_that_nvidias_tool_names(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: A (UUID: GPU-1)\nGPU 1: B (UUID: GPU-2)" || echo 1$4\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, GPU-2")
    assert visible_gpus() == ["7", "GPU-2"]
    alone, shared = GpuMemory(alone=True), GpuMemory(alone=False)
    log = tmp_path / "log"
    assert (
        child.run(["sleep", "1"], os.environ, log, [], alone) == child.run(["true"], os.environ, log, [], shared) == 0
    )
    assert (alone.peak_mib, shared.peak_mib) == (17.0, None)  # of GPU 7


def test_a_child_and_its_own_children_end_together(tmp_path):
    log = tmp_path / "log"
    process = child.start(["sh", "-c", "trap '' TERM; sleep 99 & echo $!; wait; sleep 99"], os.environ, log)
    while not log.read_text():
        pass
    child.end([process], patience_s=0.5)
    assert process.returncode == -signal.SIGKILL
    grandchild = Path("/proc", log.read_text().strip(), "stat")
    assert not grandchild.exists() or grandchild.read_text().split()[2] == "Z"


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


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """Two trainers with two seeds each, one of them trained for fewer epochs; the run that has written its results."""
    root = tmp_path_factory.mktemp("seeds")
    drawn, dice = Drawn(root, "RGB", cases=8, size=(40, 48)).write(), {}
    for seed in (1, 2):
        for trainer, shift, epochs in (("A", 1, 40), ("B", 2, 30)):
            model = make_model(drawn, trainer, shift=shift * seed, epochs=epochs)
            per_case = {}
            for summary in model.glob("fold_*/validation/summary.json"):
                for case in json.loads(summary.read_text())["metric_per_case"]:
                    per_case[Path(case["prediction_file"]).name] = case["metrics"]["1"]["Dice"]
            dice[trainer, seed] = np.array([per_case[name] for name in sorted(per_case)])
        (root / "nnUNet_results" / f"seed_{seed}").mkdir()
        shutil.move(drawn.results, root / "nnUNet_results" / f"seed_{seed}" / drawn.name)
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("raw", "results", "preprocessed"):
            patch.setenv(f"nnUNet_{kind}", str(root / f"nnUNet_{kind}"))
        request = asked(datasets=(drawn.name,), plans=("nnUNetPlans",), trainers=("A", "B", "C"), seeds=(1, 2))
        run = RunFolder(root / "run").write_request(request)
        for fold, mib in ((0, 2048.0), (1, 3072.0)):
            step = f"train__{drawn.name}__A__nnUNetPlans__2d__seed_2__fold_{fold}"
            run.write_state(step, State("done", gpu_memory_mib=mib))
        write_results(run)
    return run, dice


def rows(run: RunFolder, file: str) -> list[dict[str, str]]:
    return list(csv.DictReader((run.path / file).read_text().splitlines()))


def test_seeds_are_averaged_case_by_case(two_seeds):
    run, dice = two_seeds
    a, b = rows(run, "results.csv")  # nothing of C, which was not trained
    for row, trainer, epochs in ((a, "A", 40), (b, "B", 30)):
        of_cases = (dice[trainer, 1] + dice[trainer, 2]) / 2
        assert float(row["dice"]) == pytest.approx(of_cases.mean())
        interval = stats.bootstrap((of_cases,), np.mean, method="percentile", random_state=1).confidence_interval
        assert float(row["ci95_low"]) == pytest.approx(interval.low, abs=0.01)
        assert float(row["ci95_high"]) == pytest.approx(interval.high, abs=0.01)
        means = [dice[trainer, seed].mean() for seed in (1, 2)]
        assert float(row["std_over_seeds"]) == pytest.approx(np.std(means, ddof=1))
        assert float(row["hours"]) == pytest.approx(2 * epochs * SECONDS / 3600)  # two folds
        assert (row["seeds"], row["cases"], row["epochs"], row["parameters"]) == ("2", "8", str(epochs), "12")
    assert (a["gpu_memory_gib"], b["gpu_memory_gib"]) == ("3.0", "")


def test_differences_are_of_pairs_of_cases(two_seeds):
    run, dice = two_seeds
    (row,) = rows(run, "differences.csv")
    differences = (dice["A", 1] + dice["A", 2] - dice["B", 1] - dice["B", 2]) / 2
    assert (row["first"], row["second"], row["n"]) == ("A", "B", "8")
    assert float(row["mean_difference"]) == pytest.approx(differences.mean())
    assert float(row["p_value"]) == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_intervals_and_holm_of_three_models_with_classes_that_some_cases_lack(tmp_path, monkeypatch):
    """Invented Dice: the mean of the classes' means, its interval, and p corrected for three pairs."""
    drawn, random = Drawn(tmp_path, "CT", cases=8, size=(16, 24)).write(), np.random.default_rng(7)
    dice = {}
    for trainer in ("A", "B", "C"):
        invented = random.uniform(0.6, 0.9, (8, 2)) - [[0, 0.4]]
        invented[:4, 1] = np.nan  # the second class is rare, and bad
        of_cases = {}
        for file in make_model(drawn, trainer).glob("fold_*/validation/summary.json"):
            summary = json.loads(file.read_text())
            for case in summary["metric_per_case"]:
                values = invented[len(of_cases)]
                of_cases[Path(case["prediction_file"]).name] = values
                case["metrics"]["1"]["Dice"], case["metrics"]["2"]["Dice"] = values
            file.write_text(json.dumps(summary))
        dice[trainer] = np.array([of_cases[name] for name in sorted(of_cases)])
    for kind in ("raw", "results", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / f"nnUNet_{kind}"))
    request = asked(datasets=(drawn.name,), plans=("nnUNetPlans",), trainers=("A", "B", "C"))
    run = RunFolder(tmp_path / "run").write_request(request)
    write_results(run)

    for row, values in zip(rows(run, "results.csv"), dice.values(), strict=True):
        drawn_cases = values[random.integers(8, size=(3000, 8))]
        sums, n = np.nansum(drawn_cases, axis=1), (~np.isnan(drawn_cases)).sum(axis=1)
        means = [np.mean(of[seen > 0] / seen[seen > 0]) for of, seen in zip(sums, n, strict=True)]
        assert float(row["dice"]) == pytest.approx(np.nanmean(values, axis=0).mean())
        assert float(row["ci95_low"]) == pytest.approx(np.quantile(means, 0.025), abs=0.015)
        assert float(row["ci95_high"]) == pytest.approx(np.quantile(means, 0.975), abs=0.015)
    of_cases = {name: np.nanmean(values, axis=1) for name, values in dice.items()}
    p = [stats.wilcoxon(of_cases[a] - of_cases[b]).pvalue for a, b in ("AB", "AC", "BC")]
    found = rows(run, "differences.csv")
    assert [float(row["p_value"]) for row in found] == pytest.approx(p)
    in_order, largest = np.argsort(p), 0.0
    for rank, which in enumerate(in_order):
        largest = max(largest, min(1, (3 - rank) * p[which]))
        assert float(found[which]["p_value_holm"]) == pytest.approx(largest)


def test_each_seed_has_its_report_with_the_whole_table(two_seeds):
    run, _ = two_seeds
    text = (run.path / "results.md").read_text(encoding="utf-8")
    warning = "The budgets of Dataset905_RGB are not matched, the epochs differ: A: 40, B: 30."
    assert "| A | 2 | 2 | 40 | 8 | 0." in text and "| A − B | 8 | +0." in text and text.endswith(f"{warning}\n")
    for seed in (1, 2):
        report = (run.path / f"seed_{seed}" / "report.html").read_text(encoding="utf-8")
        section = report[report.index('id="cross-validation"') : report.index('id="metrics"')]
        assert "A − B" in section and warning in section and "<td>3.0 GiB</td>" in section


def test_without_a_complete_model_there_is_nothing_to_report(tmp_path, folders):
    run = RunFolder(tmp_path / "run").write_request(asked())
    with pytest.raises(UserError, match="no model has all of its folds finished"):
        write_results(run)


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
