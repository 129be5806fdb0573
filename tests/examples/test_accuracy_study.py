"""The accuracy study: what its plan means, its data and folds, and how long a training is expected to take."""

import json
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers.places import STUDY
from helpers.study_rows import outcome_of
from PIL import Image

from nnunetv2_dsvm.errors import UserError

pytestmark = pytest.mark.usefixtures("study_on_path")
TINY = "Dataset901_Tiny"
FULL, FINE = "VMUNet_fullResolution", "VMUNet_fineStages_noDropPath"


def known(plan, stage, dice, parameters):
    """Results of a stage's candidates: `dice` of a model, else 0.5, and its `parameters`, else 100; mirrored none."""
    from plan import Finished

    return {
        training.name: Finished(dice.get(model, 0.5), None, parameters.get(model, 100))
        for model in stage.candidates
        for dataset in stage.datasets
        for configuration in stage.configurations
        for training in plan.of_model(stage, model, dataset, configuration)
    }


def test_the_plan_begins_with_nnunets_network(plan):
    first = plan.trainings({})[:16]
    assert {(t.dataset, t.fold, t.epochs) for t in first} == {("Dataset004_Hippocampus", 0, 50)}
    counted = Counter((t.trainer.removeprefix("nnUNetTrainer").removesuffix("_study"), t.configuration) for t in first)
    own = ("_ownLoaders", *(f"Distilled{part}_ownLoaders" for part in ("", "_tenth", "_hundredth")))
    assert counted == dict.fromkeys([(n, c) for n in own for c in ("2d", "3d_fullres")], 2)  # two seeds each


def test_the_fine_network_of_the_study_is_the_trainer_that_users_have():
    import accuracy_study_trainers as trainers

    from nnunetv2_dsvm.training import variants

    for name in ("VMUNet", "DSVM"):
        measured = getattr(trainers, f"nnUNetTrainer{name}_fineStages_noDropPath_study")
        offered = getattr(variants, f"nnUNetTrainer{name}_fine")
        assert measured.network_settings() == offered.network_settings()
        assert measured.default_initial_lr == offered.default_initial_lr


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
        ({FULL: 0.52, FINE: 0.55}, {FINE: 150}, FINE),
        ({FULL: 0.55, FINE: 0.5495}, {FULL: 150}, FINE),
        ({FINE: 0.55, FULL: 0.5495}, {}, FULL),  # earlier in the plan
        ({FULL: 0.5015}, {"VMUNet": 150}, "VMUNet"),  # equal to the published one, which is kept
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


def test_a_training_is_open_as_long_as_one_of_its_stages_lacks_a_score(plan):
    from plan import Finished

    as_usual, mirrored = plan.stage("precision"), replace(plan.stage("precision"), mirrored=True)
    only = replace(plan, stages=[replace(as_usual, models=as_usual.models[:1]), mirrored])
    trainings = only.trainings({})
    assert len(trainings) == 8 and only.open({}) == trainings
    of_both, without, with_mirroring = (0.5, 0.6), (0.5, None), (None, 0.6)
    states = [of_both, without, with_mirroring, *[with_mirroring] * 5]  # the first two are of both stages
    finished = {t.name: Finished(*dice, 100) for t, dice in zip(trainings, states, strict=True)}
    assert {t.name for t in trainings[:2]} == {t.name for t in only.trainings_of(only.stages[0], {})}
    assert only.open(finished) == [trainings[1]]
    assert only.open_of(only.stages[0], finished) == [] and only.open_of(mirrored, finished) == [trainings[1]]
    assert [mirrored.score(t, finished) for t in trainings[:2]] == [0.6, None]
    assert [as_usual.score(t, finished) for t in trainings[:3]] == [0.5, 0.5, None]


def test_the_choice_is_by_the_scores_of_its_stage(plan):
    stage = plan.stage("fine")
    best = stage.candidates[-1]
    finished = known(plan, stage, {best: 0.9}, {})
    assert plan.choice(stage, finished) == best
    assert plan.choice(replace(stage, mirrored=True), finished) is None
    with_mirroring = {name: ended._replace(dice=None, dice_mirrored=ended.dice) for name, ended in finished.items()}
    assert plan.choice(stage, with_mirroring) is None
    assert plan.choice(replace(stage, mirrored=True), with_mirroring) == best


def test_what_is_chosen_among_the_first_trainings_is_trained_with_shared_batches(plan):
    weights = plan.stage("distilled_weights")
    tenth = "nnUNetTrainerDistilled_tenth_ownLoaders_study"
    dice = known(plan, weights, {tenth: 0.9}, {})
    finished = {name: ended._replace(dice=None, dice_mirrored=ended.dice) for name, ended in dice.items()}
    assert plan.choice(weights, finished) == tenth
    assert "nnUNetTrainerDistilled_tenth_study" in plan.models_of(plan.stage("told_weights"), finished)


def test_nothing_that_is_published_is_trained_again(plan):
    """Another training would take its place, with scores by which models may have been chosen."""
    from results import RESULTS, finished

    done = finished(RESULTS)
    assert done.keys().isdisjoint(training.name for training in plan.open(done))
    assert done.keys() <= {training.name for training in plan.trainings(done)}


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
    plain = of["nnUNetTrainerVMUNet_study"]
    stride2 = plain._replace(trainer="nnUNetTrainerVMUNet_stride2_study")
    minutes = plan.datasets["Dataset027_ACDC"]["minutes"]["2d"]
    assert estimated_seconds(run, plain, 3) == pytest.approx(60 * minutes)
    assert estimated_seconds(run, stride2, 3) == pytest.approx(60 * minutes * plan.slower["_stride2_"])

    def finished(training, seconds, per_gpu, mirrored=0.5):
        took = {"wall_seconds": seconds, "trainings_per_gpu": per_gpu}
        results.add(run.results, [outcome_of(training, dice=0.5, dice_mirrored=mirrored, **took)])

    finished(plain._replace(fold=1), 100, 3, mirrored="")  # one validation
    assert estimated_seconds(run, plain, 3) == pytest.approx(120)
    finished(plain._replace(fold=1), 100, 3)
    finished(plain._replace(fold=2), 400, 1)  # alone on its GPU
    assert estimated_seconds(run, plain._replace(epochs=150), 3) == pytest.approx(3 * 100)
    assert estimated_seconds(run, stride2, 3) == pytest.approx(100 * plan.slower["_stride2_"])
    fold = tmp_path / "seed_1" / stride2.dataset / f"{stride2.trainer}__studyPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "training_log_1.txt").write_text("2026-01-01 10:00:00.0: \n2026-01-01 10:00:00.0: Epoch 40\n")
    assert estimated_seconds(run, stride2, 3) == pytest.approx(100 * plan.slower["_stride2_"] / 5)
