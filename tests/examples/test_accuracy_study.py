"""The accuracy study: what its plan means, its folds and results, and one call of it on the tiny dataset."""

import csv
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.places import EXAMPLES
from helpers.quick_nnunet import threads_for_processes
from helpers.tiny_dataset import PLANS
from nnunetv2.run.run_training import run_training
from PIL import Image

from nnunetv2_dsvm.errors import UserError

STUDY = EXAMPLES / "accuracy_study"
TINY = "Dataset901_Tiny"
TRAINERS = """
import os

from accuracy_study_trainers import nnUNetTrainerDSVM_study
from helpers.quick_nnunet import threads_for_processes

if "INTERRUPTED" not in os.environ:  # in a process of its own
    threads = threads_for_processes()  # processes that import torch take longer than training here
    threads.__enter__()


class nnUNetTrainerDSVM_toy(nnUNetTrainerDSVM_study):
    num_epochs = num_iterations_per_epoch = 2
    num_val_iterations_per_epoch = 1

    def on_epoch_start(self):
        if self.current_epoch == 1 and "INTERRUPTED" in os.environ:
            raise KeyboardInterrupt
        super().on_epoch_start()
"""


@pytest.fixture(scope="module", autouse=True)
def on_path():
    """The study's files import each other as scripts do."""
    folders = [str(STUDY), str(STUDY / "trainers")]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def plan(on_path):
    from plan import Plan

    return Plan.read()


def known(plan, stage, dice, parameters):
    """Results of a stage's candidates: `dice` of a model, else 0.5, and its `parameters`, else 100."""
    from plan import Finished

    return {
        training.name: Finished(dice.get(model, 0.5), parameters.get(model, 100))
        for model in stage.candidates
        for dataset in stage.datasets
        for configuration in stage.configurations
        for training in plan.of_model(stage, model, dataset, configuration)
    }


def test_first_half_hour_begins_with_nnunets_network_and_volumes(plan):
    first = plan.trainings({})[:16]
    assert {(t.dataset, t.fold, t.epochs) for t in first} == {("Dataset004_Hippocampus", 0, 50)}
    counted = Counter((t.trainer.removeprefix("nnUNetTrainer").removesuffix("_study"), t.configuration) for t in first)
    pairs = [("", "2d"), ("", "3d_fullres"), ("Distilled", "2d"), ("Distilled", "3d_fullres")]
    volumes = [(name, "3d_fullres") for name in ("VMUNet", "DSVM", "DSVM_stem", "DSVM_fullResolution")]
    assert counted == dict.fromkeys([*pairs, *volumes], 2)  # two seeds each


def test_names_are_of_one_training_each_and_models_of_the_trainers(plan):
    import accuracy_study_trainers as trainers

    for stage in plan.stages:
        assert set(stage.candidates) <= set(stage.models)
        for model in [*stage.models, *stage.against]:
            trainer = getattr(trainers, model.partition("@")[0], None)
            if not model.startswith("chosen of "):
                assert trainer.num_epochs == stage.epochs, model
        for model in stage.candidates:  # what may be chosen has a twin with distillation
            assert hasattr(trainers, model.replace("VMUNet", "DSVM")), model


def test_what_a_trainer_states_is_a_setting_of_its_layers():
    import accuracy_study_trainers as trainers

    for name, trainer in vars(trainers).items():
        if name.endswith(("_study", "_study150")):
            for setting in (setting for setting in vars(trainer) if not setting.startswith("__")):
                assert any(hasattr(base, setting) for base in trainer.__mro__[1:]), f"{name}.{setting}"


@pytest.mark.parametrize(
    ("better", "parameters", "chosen"),
    [
        ({"VMUNet_stem": 0.52, "VMUNet_both": 0.55}, {"VMUNet_both": 150}, "VMUNet_both"),
        ({"VMUNet_stem": 0.55, "VMUNet_both": 0.5495}, {"VMUNet_stem": 150}, "VMUNet_both"),
        ({"VMUNet_both": 0.55, "VMUNet_stem": 0.5495}, {}, "VMUNet_stem"),  # earlier in the plan
        ({"VMUNet_stem": 0.5015}, {"VMUNet": 150}, "VMUNet"),  # equal to the published one, which is kept
    ],
)
def test_best_is_chosen_or_an_equal_one_that_is_published_or_smaller(plan, better, parameters, chosen):
    def named(values):
        return {f"nnUNetTrainer{name}_study": value for name, value in values.items()}

    stage = plan.stage("fine")
    finished = known(plan, stage, named(better), named(parameters))
    assert plan.choice(stage, finished) == f"nnUNetTrainer{chosen}_study"
    told = plan.models_of(plan.stage("told"), finished)
    assert {f"nnUNetTrainer{name}_study" for name in (chosen, chosen.replace("VMUNet", "DSVM"))} <= set(told)
    finished.popitem()
    assert plan.choice(stage, finished) is None


@pytest.mark.parametrize(
    ("choice", "judge", "replaced"),
    [
        ("distillation", "told", "nnUNetTrainerDSVM_study"),
        ("fine, distilled", "told", "nnUNetTrainerDSVM_study"),
        ("distilled_weights", "told_weights", "nnUNetTrainerDistilled_study"),
    ],
)
def test_what_is_chosen_is_told_by_other_folds_against_what_it_would_replace(plan, choice, judge, replaced):
    stage = plan.stage(judge)
    assert f"chosen of {choice}" in stage.models and replaced in stage.against and replaced in stage.models
    assert list(stage.folds) == [1, 2, 3, 4] and set(stage.datasets) == set(plan.datasets)


def test_stage_that_is_not_in_the_plan_is_refused(plan):
    with pytest.raises(UserError, match="unknown stage 'scam': choose one of distilled, "):
        plan.stage("scam")


def test_shares_of_the_labels_are_nested_and_by_patient():
    from plan import patient_of
    from prepare import SPLITS, folds_of

    for path in SPLITS.glob("*.json"):
        folds = folds_of(json.loads(path.read_text()))
        cases = sorted(folds[0]["train"] + folds[0]["val"])
        assert len(folds) == 20 and sorted(case for fold in folds[:5] for case in fold["val"]) == cases
        for number, whole in enumerate(folds[:5]):
            assert {*map(patient_of, whole["train"])}.isdisjoint(map(patient_of, whole["val"]))
            fewer, patients = [folds[number + 5 * i] for i in (1, 2, 3)], len({*map(patient_of, whole["train"])})
            assert all(fold["val"] == whole["val"] for fold in fewer)
            sets = [{*map(patient_of, fold["train"])} for fold in fewer]
            assert [len(s) for s in sets] == [round(share * patients) for share in (0.1, 0.25, 0.5)]
            assert sets[0] < sets[1] < sets[2]
            for fold, patients_of_fold in zip(fewer, sets, strict=True):
                assert fold["train"] == [case for case in whole["train"] if patient_of(case) in patients_of_fold]


@pytest.fixture
def toy(copied_dataset, tmp_path):
    """A plan of one model on two folds and two seeds, of which the results know all but seed 2 of fold 0."""
    import results
    from plan import Plan

    stage = {"name": "toy", "title": "Toy", "datasets": [TINY], "configurations": ["2d"], "folds": [0, 1],
             "seeds": [1, 2], "epochs": 2, "models": ["nnUNetTrainerDSVM_toy"], "against": ["nnUNetTrainerDSVM_toy"],
             "candidates": []}  # fmt: skip
    datasets = {TINY: {"minutes": {"2d": 1}, "batch": {"2d": 2}, "distances": "pixels"}}
    (tmp_path / "plan.json").write_text(
        json.dumps({"plans": PLANS, "copies": {}, "datasets": datasets, "slower": {}, "stages": [stage]})
    )
    (tmp_path / "toy_trainers").mkdir()
    (tmp_path / "toy_trainers" / "toy_trainers.py").write_text(TRAINERS)
    trainings = Plan.read(tmp_path / "plan.json").trainings({})
    done = [t for t in trainings if (t.fold, t.seed) != (0, 2)]
    empty = dict.fromkeys(results.COLUMNS["trainings.csv"], "")
    rows = [{**empty, **t._asdict(), "training": t.name, "dice": 0.5, "parameters": 1} for t in done]
    cases = [[t.name, f"of_fold_{t.fold}", label, 0.5, 1.0] for t in done for label in ("one", "two")]
    outcome = {"cases.csv": cases, "curves.csv": [], "trainings.csv": [list(row.values()) for row in rows]}
    results.add(tmp_path / "results", [outcome])
    variables = {
        **copied_dataset.environment,
        "nnUNet_extTrainer": str(tmp_path / "toy_trainers"),
        "nnUNet_results": str(copied_dataset.results.parent),
        "PYTHONPATH": os.pathsep.join([str(STUDY / "trainers"), os.environ.get("PYTHONPATH", "")]),
        "NNUNETV2_DSVM_SAVE_EVERY": "1",
        "nnUNet_npp": "0",
        "nnUNet_nps": "0",
    }
    return tmp_path, variables


def test_trainings_that_end_together_are_collected_and_one_without_rows_has_failed(plan, tmp_path, monkeypatch, capsys):
    import results
    from run import Collector
    from study_run import StudyRun

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    run = StudyRun(tmp_path / "study", STUDY / "plan.json", tmp_path / "csv", "cuda")
    for folder in (run.outcomes, run.path / "logs"):
        folder.mkdir(parents=True)
    first, second, third = list(run.steps.values())[:3]
    for step in (first, second):
        row = dict.fromkeys(results.COLUMNS["trainings.csv"], "")
        row |= {"training": step.name, "dice": 0.5, "parameters": 1}
        outcome = {"cases.csv": [], "curves.csv": [], "trainings.csv": [list(row.values())]}
        (run.outcomes / f"{step.name}.json").write_text(json.dumps(outcome))
    run.log(third.name).write_text("begun\nnnUNetv2_train was killed\n")
    collector = Collector(run)
    for step in (second, first):
        collector.ended(step, 0)
    assert results.finished(run.results).keys() == {first.name, second.name} and collector.failed == 0
    collector.ended(third, 1)
    assert collector.failed == 1 and "nnUNetv2_train was killed" in capsys.readouterr().out
    assert next(iter(StudyRun(run.path, run.plan_file, run.results, "cuda").steps)) == third.name


def test_results_wait_for_another_call_that_writes(tmp_path):
    import results
    from results import held

    with ThreadPoolExecutor(1) as executor:
        with held(tmp_path / results.LOCK, "the results"):
            adding = executor.submit(results.add, tmp_path, [{name: [] for name in results.COLUMNS}])
            time.sleep(0.2)
            assert not adding.done() and not list(tmp_path.glob("*.csv"))
        adding.result()
    assert {path.name for path in tmp_path.iterdir()} == set(results.COLUMNS)


def test_a_call_says_what_it_cannot_begin(plan, tmp_path, monkeypatch, capsys):
    import run
    from scripts import status_of

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", "--results", str(tmp_path / "csv"), "-device", "cpu", *arguments])
        folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
        with mock.patch.dict(os.environ, folders):
            status = status_of(run.main)
        return status, capsys.readouterr()

    status, said = call("--only", "005-")
    assert status == 1 and said.err.startswith("no training of the plan has '005-' in its name") and not said.out
    status, said = call("--only", "004-2d")
    assert (status, said.err.count("\n"), said.out) == (1, 1, "")
    assert said.err.startswith(f"not prepared in {tmp_path}/preprocessed: Dataset004_Hippocampus; run prepare.py first")
    assert not (tmp_path / "results").exists()
    prepared = tmp_path / "preprocessed" / "Dataset004_Hippocampus"
    prepared.mkdir(parents=True)
    for plans in plan.copies:
        (prepared / f"{plans}.json").write_text("{}")
    monkeypatch.setattr(run, "check_trainers", lambda request: None)  # takes long, and is tested elsewhere
    status, said = call("--only", "004-2d", "--lease", "5.9")
    assert status == 0 and "begins" not in said.out
    left = sum(training.name.startswith("004-2d") for training in plan.trainings({}))
    assert f"{left} trainings are left\n{left} were not begun" in said.out and "the shortest 6 min" in said.out


@pytest.mark.parametrize("works", [True, False])
def test_gpus_are_shared_by_a_daemon_that_works_and_is_ended(works, tmp_path, monkeypatch):
    import run

    daemon = tmp_path / "bin" / run.MPS
    daemon.parent.mkdir()
    daemon.write_text(f'#!/bin/sh\n[ -n "$1" ] && echo "$1 ${run.PIPE}" >> {tmp_path}/told || cat >> {tmp_path}/told\n')
    daemon.chmod(0o755)
    monkeypatch.setenv("PATH", f"{daemon.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(run.PIPE, raising=False)
    monkeypatch.setattr(run, "USES_A_GPU", f"raise SystemExit({int(not works)})")
    with run.shared_gpus(True):
        assert (run.PIPE in os.environ) is works
        pipe = os.environ.get(run.PIPE)
    started, quit_ = (tmp_path / "told").read_text().splitlines()
    assert started == f"-d {pipe}" if works else started.startswith("-d /")
    assert quit_ == "quit" and run.PIPE not in os.environ
    with run.shared_gpus(False):
        assert (tmp_path / "told").read_text().count("-d") == 1


def test_curves_of_a_stage_are_drawn(plan, tmp_path, monkeypatch, capsys):
    import figure
    import results

    command = ["figure.py", "long", "--results", str(tmp_path), "--to", str(tmp_path / "curves.png")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        figure.main()
    assert "no training of long is finished" in capsys.readouterr().err
    curves = [
        [t.name, epoch, 0.5, -0.5, -0.5, 9] for t in plan.trainings_of(plan.stage("long"), {}) for epoch in (0, 1)
    ]
    results.add(tmp_path, [{"cases.csv": [], "curves.csv": curves, "trainings.csv": []}])
    figure.main()
    assert Image.open(tmp_path / "curves.png").size[0] > 100


def rows(folder, name):
    with open(folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_call_goes_on_with_an_interrupted_training_and_trains_nothing_that_the_results_know(toy):
    folder, variables = toy
    name = f"901-2d-{PLANS}-nnUNetTrainerDSVM_toy-f0-s2"
    seed_2 = folder / "own" / "nnUNet_results" / "seed_2"
    interrupted = {**variables, "nnUNet_results": str(seed_2), "NNUNETV2_DSVM_SEED": "2", "INTERRUPTED": "1"}
    with mock.patch.dict(os.environ, interrupted), threads_for_processes(), pytest.raises(KeyboardInterrupt):
        run_training("901", "2d", 0, "nnUNetTrainerDSVM_toy", PLANS, device=torch.device("cpu"))
    command = [sys.executable, STUDY / "run.py", "--plan", folder / "plan.json", "--results", folder / "results",
               "-device", "cpu", "--minutes", "10"]  # fmt: skip
    called = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, encoding="utf-8")
    assert called.returncode == 0 and "0 trainings are left" in called.stdout, called.stdout + called.stderr

    log = (seed_2.parent / "study" / "logs" / f"{name}.log").read_text(encoding="utf-8")
    assert "Continues from checkpoint_latest.pth, written after epoch 0" in log
    assert [path.stem for path in (seed_2.parent / "study" / "logs").iterdir()] == [name]
    trainings = {row["training"]: row for row in rows(folder / "results", "trainings.csv")}
    assert len(trainings) == 4
    row = trainings[name]
    validated = float(re.search(r"Mean Validation Dice:\s+([\d.]+)", log)[1])  # nnU-Net's own
    assert float(row["dice"]) == pytest.approx(validated, abs=1e-4)
    assert (row["epochs"], row["seed"], row["wall_seconds"]) == ("2", "2", "")
    assert torch.__version__.startswith(row["torch"]) and row["torch"]
    assert int(row["parameters"]) > 0 and int(row["parameters_of_the_distillation"]) > 0
    cases = [case for case in rows(folder / "results", "cases.csv") if case["training"] == name]
    assert [case["label"] for case in cases] == ["one", "two"]
    curve = rows(folder / "results", "curves.csv")
    assert [row["epoch"] for row in curve] == ["0", "1"] and all(float(row["training_loss"]) for row in curve)
    left = [path.name for path in (seed_2.parent / "study" / "outcomes").iterdir()]
    assert not left and not list(seed_2.rglob("checkpoint_*.pth"))

    (folder / "text.md").write_text("<!-- study: toy -->\n<!-- end of study: toy -->\n")
    table = [sys.executable, STUDY / "tables.py", folder / "text.md", *command[2:6]]
    subprocess.run(table, env={**os.environ, **variables}, check=True)
    seed_2_dice = (0.5 + sum(float(case["Dice"]) for case in cases) / 2) / 2
    dice = f"{(0.5 + seed_2_dice) / 2:.4f} ± {abs(0.5 - seed_2_dice) / 2**0.5:.4f}"
    assert f"| nnUNetTrainerDSVM_toy | 0 1 | 1 2 | 3 | {dice} |" in (folder / "text.md").read_text(encoding="utf-8")


def test_texts_say_what_the_files_say():
    from tables import main

    root = EXAMPLES.parent
    texts = [STUDY / "README.md", root / "documentation" / "study.md", root / "README.md"]
    with mock.patch.object(sys, "argv", ["tables.py", *map(str, texts), "--check"]):
        assert main() == 0, "write them by examples/accuracy_study/tables.py"


def drawn(plan, generator, stage):
    """Results of a stage: two frames of a patient, one of two others; Dice of all labels, HD95 of the first."""
    outcome = {"cases.csv": [], "curves.csv": [], "trainings.csv": []}
    from results import COLUMNS

    for training in plan.trainings_of(stage, {}):
        for case in ("patient001_frame01", "patient001_frame02", "patient002_frame01", "patient003_frame01"):
            for label in ("RV", "LVC"):
                hd95 = "" if label == "LVC" else round(generator.random() * 9, 3)
                outcome["cases.csv"].append([training.name, case, label, round(generator.random(), 5), hd95])
        row = dict.fromkeys(COLUMNS["trainings.csv"], "") | training._asdict()
        row |= {"training": training.name, "dice": 0.5, "epoch_seconds": 2.0, "parameters": 1000, "hours": 0.5}
        outcome["trainings.csv"].append(list(row.values()))
    return outcome


def test_a_table_is_paired_by_patient_and_corrected_for_its_comparisons(plan, tmp_path):
    import random

    import results
    from scipy.stats import wilcoxon
    from tables import Store, filled

    models = ["A_study", "B_study", "C_study"]
    small = replace(plan.stage("fine"), datasets=["Dataset027_ACDC"], folds=[0, 1], models=models,
                    against=models[:1], candidates=())  # fmt: skip
    only = replace(plan, stages=[small])
    results.add(tmp_path, [drawn(only, random.Random(0), small)])
    marked = "before\n<!-- study: fine -->\nold\n<!-- end of study: fine -->\nafter\n"
    text = filled(marked, only, Store.read(tmp_path))
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert filled(text, only, Store.read(tmp_path)) == text

    named = {t.name: (t.trainer, t.seed, t.fold) for t in only.trainings({})}
    rows = {
        (*named[row["training"]], row["case"], row["label"]): float(row["Dice"])
        for row in results.read(tmp_path, "cases.csv")
    }
    seeds, folds, cases = (1, 2), (0, 1), dict.fromkeys(key[3] for key in rows)

    def dice(model, patient):
        of = [np.mean([rows[model, s, f, case, label] for label in ("RV", "LVC")])
              for s in seeds for f in folds for case in cases if case.startswith(patient)]  # fmt: skip
        return 100 * np.mean(of)

    p_values = []
    for model in ("B_study", "C_study"):
        minus = [
            dice(model, patient) - dice("A_study", patient) for patient in ("patient001", "patient002", "patient003")
        ]
        p_values.append(wilcoxon(minus).pvalue)
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {model.removesuffix('_study')} |"))
        shown = re.search(r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\], d ([+-][\d.]+) \[.*\], p ([\d.]+)", line)
        assert float(shown[1]) == pytest.approx(np.mean(minus), abs=0.0051)
        assert float(shown[4]) == pytest.approx(np.mean(minus) / np.std(minus, ddof=1), abs=0.0051)
        # of three patients the 95 % of bootstrap means reach to the extremes
        assert float(shown[2]) == pytest.approx(min(minus), abs=0.0051)
        assert float(shown[3]) == pytest.approx(max(minus), abs=0.0051)
        of_seeds = [np.mean([rows[model, seed, f, c, label] for f in folds for c in cases for label in ("RV", "LVC")])
                    for seed in seeds]  # fmt: skip
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[1:4] == ["0 1", "1 2", "3"] and cells[6] == str(2 * 4)  # in each seed
        assert cells[4] == f"{np.mean(of_seeds):.4f} ± {np.std(of_seeds, ddof=1):.4f}"
    smaller, larger = sorted(p_values)
    expected = [min(1.0, 2 * smaller), max(min(1.0, 2 * smaller), larger)]
    assert sorted(float(p) for p in re.findall(r"p ([\d.]+) \|", text)) == pytest.approx(expected, abs=0.01)


def test_a_row_that_is_not_complete_says_so_and_a_later_model_is_compared_with_an_earlier_one(plan, tmp_path):
    import random

    import results
    from tables import Store, filled

    models = ["A_study", "B_study", "C_study"]
    small = replace(plan.stage("fine"), datasets=["Dataset017_PH2"], folds=[0, 1], models=models,
                    against=["B_study", "A_study"], candidates=())  # fmt: skip
    only = replace(plan, stages=[small])
    outcome = drawn(only, random.Random(0), small)
    gone = [t.name for t in only.trainings({}) if (t.trainer, t.fold) == ("C_study", 1) and t.seed == 2]
    gone += [t.name for t in only.trainings({}) if (t.trainer, t.fold) == ("B_study", 1)]
    kept = {name: [row for row in rows if row[0] not in gone] for name, rows in outcome.items()}

    def lines(outcome, folder):
        results.add(folder, [outcome])
        text = filled("<!-- study: fine -->\n<!-- end of study: fine -->", only, Store.read(folder))
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]

    heads, _, a, b, c = lines(kept, tmp_path / "some")
    assert heads[5] == "HD95 (pixels)" and heads[7:9] == ["minus B", "minus A"]
    assert [a[0], b[0], c[0]] == ["A", "B (2 of 4)", "C (3 of 4)"]
    assert "±" in a[4] and "±" in b[4] and "±" not in c[4] + c[5]  # C's seeds have other folds
    assert a[7:9] == ["", ""] and b[7] == "" and "d " in b[8] and "d " in c[7] and "d " in c[8]

    alone = {name: [row for row in rows if name != "cases.csv" or row[1] == "patient003_frame01"]
             for name, rows in outcome.items()}  # fmt: skip
    *_, c = lines(alone, tmp_path / "alone")
    assert c[3] == "1" and re.fullmatch(r"[+-][\d.]+", c[7])


def test_archives_of_a_data_set_are_unpacked_together_and_its_cases_are_those_of_the_folds(tmp_path):
    from prepare import check_cases, unpack

    source, raw = tmp_path / "source", tmp_path / "raw"
    for number, case in enumerate("ab"):
        folder = source / str(number) / TINY / "labelsTr"
        folder.mkdir(parents=True)
        (folder / f"{case}.png").touch()
        (folder.parent / "dataset.json").write_text('{"file_ending": ".png"}')
        with tarfile.open(source / f"{TINY}_{number}.tar", "w") as tar:
            tar.add(folder.parent, TINY)
    raw.mkdir()
    unpack(TINY, source, raw)
    check_cases(TINY, raw, [["a"], ["b"]])
    with pytest.raises(UserError, match="has other cases than the folds: c and 1 in all"):
        check_cases(TINY, raw, [["a"], ["b", "c"]])
    with pytest.raises(UserError, match=r"has neither Dataset902_None nor Dataset902_None\*.tar"):
        unpack("Dataset902_None", source, raw)
    assert [path.name for path in raw.iterdir()] == [TINY]


def test_ph2_is_halved(tmp_path):
    from ph2 import write_ph2

    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    mask = np.zeros((4, 6), np.uint8)
    mask[:2, :3], mask[3, 4] = 255, 255
    for part, array, name in (("Dermoscopic_Image", pixels, "IMD002"), ("lesion", mask, "IMD002_lesion")):
        folder = tmp_path / "PH2" / "IMD002" / f"IMD002_{part}"
        folder.mkdir(parents=True)
        Image.fromarray(array).save(folder / f"{name}.bmp")
    assert write_ph2(tmp_path / "PH2", tmp_path / "raw") == 1
    image = np.asarray(Image.open(tmp_path / "raw" / "imagesTr" / "IMD002_0000.png"), int)
    assert abs(image - pixels.reshape(2, 2, 3, 2, 3).mean((1, 3))).max() <= 0.5
    label = np.asarray(Image.open(tmp_path / "raw" / "labelsTr" / "IMD002.png"))
    assert label.tolist() == [[1, 1, 0], [0, 0, 0]]  # all of it, half of it, a quarter of it
    (tmp_path / "PH2" / "IMD002" / "IMD002_lesion" / "IMD002_lesion.bmp").unlink()
    with pytest.raises(UserError, match="IMD002_lesion.bmp is missing"):
        write_ph2(tmp_path / "PH2", tmp_path / "raw")
    assert (tmp_path / "raw" / "dataset.json").is_file()


def test_a_training_is_expected_to_take_as_long_as_others_of_its_kind(plan, tmp_path, monkeypatch):
    import results
    from study_run import StudyRun, estimated_seconds

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    run = StudyRun(tmp_path / "study", STUDY / "plan.json", tmp_path / "csv", "cuda")
    of = {t.trainer: t for t in plan.trainings({}) if t.name.startswith("027-2d") and (t.fold, t.seed) == (0, 1)}
    plain, stride2 = of["nnUNetTrainerVMUNet_study"], of["nnUNetTrainerVMUNet_stride2_study"]
    minutes = plan.datasets["Dataset027_ACDC"]["minutes"]["2d"]
    assert estimated_seconds(run, plain, 3) == pytest.approx(60 * minutes)
    assert estimated_seconds(run, stride2, 3) == pytest.approx(60 * minutes * plan.slower["_stride2_"])

    def finished(training, seconds, per_gpu):
        row = dict.fromkeys(results.COLUMNS["trainings.csv"], "") | training._asdict()
        row |= {"training": training.name, "dice": 0.5, "parameters": 1, "wall_seconds": seconds}
        row |= {"trainings_per_gpu": per_gpu}
        results.add(run.results, [{"cases.csv": [], "curves.csv": [], "trainings.csv": [list(row.values())]}])

    finished(plain._replace(fold=1), 100, 3)
    finished(plain._replace(fold=2), 400, 1)  # alone on its GPU
    assert estimated_seconds(run, plain._replace(epochs=150), 3) == pytest.approx(3 * 100)
    assert estimated_seconds(run, stride2, 3) == pytest.approx(100 * plan.slower["_stride2_"])
    fold = tmp_path / "seed_1" / stride2.dataset / f"{stride2.trainer}__studyPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "training_log_1.txt").write_text("2026-01-01 10:00:00.0: \n2026-01-01 10:00:00.0: Epoch 40\n")
    assert estimated_seconds(run, stride2, 3) == pytest.approx(100 * plan.slower["_stride2_"] / 5)
