"""A cross-validation on a real SLURM of two nodes: a job preempted, a node drained, a fold that fails; its resume."""

import re
import shutil
import subprocess

import pytest
from helpers.cross_validations import OURS, CrossValidations, wait_for
from helpers.slurm import URGENT, slurm, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
TRAINED = [f"train {OURS} fold_{fold}" for fold in (0, 1)]
OPTIONS = ("--cluster", "slurm", "--partition", "gpu", "--time", "00:30:00", "--max-jobs", 2, "--cpus-per-job", 1)


@pytest.fixture(scope="module")
def place(tiny_dataset, tmp_path_factory):
    copy = tiny_dataset.copy(tmp_path_factory.mktemp("cluster"))
    shutil.rmtree(copy.raw / "imagesTs")  # nothing to predict: shorter
    (copy.preprocessed / "splits_final.json").unlink(missing_ok=True)  # of another test
    with slurm() as variables:
        yield CrossValidations(copy, **variables)


def ask(place: CrossValidations, *command: object) -> str:
    done = subprocess.run(list(map(str, command)), env=place.variables, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(place: CrossValidations) -> str:
    call = place.begin(*OPTIONS)
    shown = call.communicate(timeout=120)[0]
    assert call.returncode == 0, shown
    return shown


def ended(place: CrossValidations) -> bool:
    return not ask(place, "squeue", "--noheader")


@pytest.fixture(scope="module")
def first(place):
    """In their second epochs fold 1 fails, and the job of fold 0 is preempted, and its node drained meanwhile."""
    for fold in (0, 1):
        (place.signs / f"wait {fold}").touch()
    said = [submit(place)]
    wait_for(lambda: all(map(place.is_in_second_epoch, (0, 1))))
    job = place.status()[TRAINED[0]]["job"]
    said.append(submit(place))  # a second call while the jobs are there
    (place.signs / f"fail {OURS} 1").touch()
    (place.signs / "wait 1").unlink()
    node = re.search(r" NodeList=(\S+)", ask(place, "scontrol", "--oneliner", "show", "job", job))[1]
    ask(place, "sbatch", "-p", URGENT, "-w", node, "--output", "/dev/null", "--wrap", "sleep 2")
    wait_for(lambda: place.status()[TRAINED[0]]["state"] == "queued")
    between = place.status()[TRAINED[0]]
    ask(place, "scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    (place.signs / "wait 0").unlink()
    wait_for(lambda: "BeginTime" in ask(place, "squeue", "-h", "-j", job, "-o", "%r"))
    ask(place, "scontrol", "update", f"jobid={job}", "starttime=now")  # SLURM lets a requeued job wait for two minutes
    wait_for(lambda: ended(place))
    ask(place, "scontrol", "update", f"nodename={node}", "state=resume")
    return said, between, place.status()


def test_a_preempted_job_goes_on_where_it_was(place, first):
    _, between, after = first
    assert between["job"] and between["epoch"] == 1
    log = place.log(TRAINED[0])
    assert log.count("$ nnUNetv2_train") == 2
    assert "Continues from checkpoint_latest.pth, written after epoch 0, with epoch 1 of 0 to 1" in log
    assert after[TRAINED[0]]["state"] == "done" and after[TRAINED[0]]["dice"] is not None


def test_a_second_call_finds_the_jobs_of_the_first(first):
    said, _, _ = first
    assert "submitted 6 jobs" in said[0] and "submitted 0 jobs" in said[1]


def test_a_failed_fold_stops_what_needs_it(first):
    _, _, after = first
    assert after[TRAINED[1]]["state"] == "failed"
    assert after[TRAINED[1]]["reason"] == "RuntimeError: this fold is made to fail"
    assert after["best"]["state"] == after[f"evaluate {OURS}"]["state"] == "blocked"


def test_the_next_call_does_what_is_missing(place, first):
    before = (place.fold(0) / "checkpoint_final.pth").stat().st_mtime_ns
    (place.signs / f"fail {OURS} 1").unlink()
    assert "submitted 4 jobs" in submit(place)  # the fold, the best configuration, evaluation and report
    wait_for(lambda: ended(place))
    assert set(place.states().values()) == {"done"}, place.status()
    assert (place.fold(0) / "checkpoint_final.pth").stat().st_mtime_ns == before
    assert "| nnUNetTrainerDSVM_cv | 1 | 2 | 2 | 2 |" in (place.folder / "results.md").read_text(encoding="utf-8")


def test_cancel_ends_the_jobs(place, first):
    """After the others: a fold is missing again."""
    (place.signs / "wait 1").touch()
    shutil.rmtree(place.fold(1))
    submit(place)
    wait_for(lambda: place.status()[TRAINED[1]]["state"] == "running")
    done = place.call(place.command("--cancel"))
    assert done.returncode == 0 and f"{OURS}__tinyPlans__2d__fold_1, best__" in done.stderr
    wait_for(lambda: ended(place))
    states = place.states()
    assert states["report"] == "cancelled" and states[TRAINED[1]] in ("cancelled", "interrupted")
