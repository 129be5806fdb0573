"""What a cross-validation is asked for: its steps, what is refused before any begins, what data sets lack."""

import json

import pytest
from helpers.cross_validations import TINY, asked
from helpers.short_trainers import ShortVMUNet

from nnunetv2_dsvm.cluster.api import cross_validate
from nnunetv2_dsvm.cluster.preparation import check_plans, missing_commands, write_splits
from nnunetv2_dsvm.cluster.request import Request, checked_request
from nnunetv2_dsvm.cluster.steps import steps_of
from nnunetv2_dsvm.cluster.trainers import check_trainers
from nnunetv2_dsvm.errors import UserError


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
        again = ["nnUNetv2_preprocess", "-d", "901", "-plans_name", "tinyPlans", "-c", "2d", *processes[:2]]
        properties = next((folder / "nnUNetPlans_2d").glob("*.pkl"))
        for lost in (properties.with_suffix(".b2nd"), properties):  # as an interrupted preprocessing leaves it
            lost.rename(moved := lost.with_suffix(".moved"))
            assert missing_commands(TINY, asked()) == [again]
            moved.rename(lost)
        properties.unlink()
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


def test_the_folds_are_those_that_nnunet_draws(copied_dataset, make_on):
    splits = copied_dataset.preprocessed / "splits_final.json"
    with copied_dataset.here():
        write_splits(TINY, asked())
    ours = json.loads(splits.read_text())
    splits.unlink()
    make_on(copied_dataset, ShortVMUNet).do_split()
    assert ours == json.loads(splits.read_text()) and len(ours) == 5
