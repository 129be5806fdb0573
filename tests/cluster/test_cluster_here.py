"""A cross-validation on this machine, with two places for trainings: killed, resumed, with a fold that fails."""

import csv
import os
import signal
import time
from pathlib import Path

import pytest
from helpers.cross_validations import NNUNETS, OURS, CrossValidations, wait_for

BOTH = (OURS, NNUNETS)


@pytest.fixture(scope="module")
def place(tiny_dataset, tmp_path_factory):
    return CrossValidations(tiny_dataset.copy(tmp_path_factory.mktemp("cluster")))


def processes_of(place: CrossValidations) -> list[str]:
    """All that run with the place's folders, whoever started them."""
    mark, found = f"nnUNet_raw={place.signs}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has just ended
            continue
    return [command for command in found if command]


@pytest.fixture(scope="module")
def killed(place):
    """The first call, killed while two folds are in their second epoch; the refusal of a second one meanwhile."""
    (place.signs / f"fail {NNUNETS} 1").touch()
    for fold in (0, 1):
        (place.signs / f"wait {fold}").touch()
    first = place.begin("--gpus", 0, 1, trainers=BOTH)
    wait_for(lambda: all(map(place.is_in_second_epoch, (0, 1))))
    meanwhile, second = place.status(), place.call(place.training())
    first.kill()
    first.communicate()
    wait_for(lambda: not processes_of(place))
    return first.pid, meanwhile, second


@pytest.fixture(scope="module")
def resumed(place, killed):
    for fold in (0, 1):
        (place.signs / f"wait {fold}").unlink()
    after_kill = place.states()
    call = place.begin("--gpus", 0, 1, trainers=BOTH)
    return after_kill, call.communicate()[0], call.returncode


@pytest.mark.slow
def test_two_places_train_two_folds_at_a_time(killed):
    _, meanwhile, _ = killed
    running = {name: step for name, step in meanwhile.items() if step["state"] == "running"}
    assert set(running) == {f"train {OURS} fold_0", f"train {OURS} fold_1"}
    for step in running.values():
        assert (step["epoch"], step["epochs"]) == (1, 2) and step["seconds_left"] == step["seconds_per_epoch"] > 0
        assert 0 <= step["pseudo_dice"] <= 1
    assert meanwhile["prepare"]["state"] == "done" and meanwhile["report"]["state"] == "queued"


@pytest.mark.slow
def test_a_second_call_is_refused_by_name_of_the_first(killed):
    pid, _, second = killed
    assert (
        second.returncode == 1 and f"(process {pid}, since " in second.stderr and os.uname().nodename in second.stderr
    )


@pytest.mark.slow
def test_what_was_interrupted_goes_on_and_a_failed_fold_stops_only_what_needs_it(place, resumed):
    after_kill, shown, status = resumed
    assert after_kill[f"train {OURS} fold_0"] == "interrupted"
    for fold in (0, 1):
        assert "Continues from checkpoint_latest.pth, written after epoch 0" in place.log(f"train {OURS} fold_{fold}")
    steps = place.status()
    assert {name: step["state"] for name, step in steps.items()} == {
        "prepare": "done",
        f"train {OURS} fold_0": "done",
        f"train {OURS} fold_1": "done",
        f"train {NNUNETS} fold_0": "done",
        f"train {NNUNETS} fold_1": "failed",
        "best": "blocked",
        "predict": "blocked",
        f"evaluate {OURS}": "done",
        f"evaluate {NNUNETS}": "blocked",
        "report": "done",
    }
    failed = steps[f"train {NNUNETS} fold_1"]
    assert failed["reason"] == failed["tail"][-1] == "RuntimeError: this fold is made to fail"
    assert status == 1 and "RuntimeError: this fold is made to fail" in shown
    assert not processes_of(place)


@pytest.mark.slow
def test_the_end_of_a_request_and_nothing_to_do_after_it(place, resumed):
    """One trainer alone, in the same folder: its finished folds are left alone, and the best configuration predicts."""
    finished = {path: path.stat().st_mtime_ns for path in place.fold(0).parent.glob("fold_*/checkpoint_final.pth")}
    call = place.begin()
    shown = call.communicate()[0]
    assert call.returncode == 0, shown
    assert set(place.states().values()) == {"done"}
    assert finished == {path: path.stat().st_mtime_ns for path in finished} and len(finished) == 2
    (prediction,) = (place.folder / "predictions" / "Dataset901_Tiny").glob("*.nii.gz")
    assert prediction.name == "case_005.nii.gz"
    (row,) = csv.DictReader((place.folder / "results.csv").read_text().splitlines())
    dice = [place.status()[f"train {OURS} fold_{fold}"]["dice"] for fold in (0, 1)]
    assert float(row["dice"]) == pytest.approx(sum(dice) / 2, abs=1e-6)  # a case each
    assert (row["trainer"], row["epochs"], row["cases"], row["gpu_memory_gib"]) == (OURS, "2", "2", "")
    report = (place.folder / "report.html").read_text(encoding="utf-8")
    assert '<section id="cross-validation">' in report and f"{float(row['dice']):.4f}" in report

    begun = time.time()
    assert place.begin().wait() == 0
    assert all(path.stat().st_mtime < begun for path in (place.folder / "steps").iterdir())


@pytest.mark.slow
def test_ctrl_c_and_cancel_leave_no_process(place, resumed):
    (place.signs / f"fail {NNUNETS} 1").unlink()
    for end in ("interrupt", "cancel"):
        call = place.begin(trainers=(NNUNETS,))
        wait_for(lambda: any("nnUNetv2_train 901" in command for command in processes_of(place)))
        if end == "interrupt":
            call.send_signal(signal.SIGINT)
        else:
            assert f"Cancelled: train__Dataset901_Tiny__{NNUNETS}" in place.call(place.command("--cancel")).stderr
        assert call.wait(300) == 130
        assert not processes_of(place)
        assert place.states()[f"train {NNUNETS} fold_1"] == "interrupted"
