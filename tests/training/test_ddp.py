"""Two ranks train together (on the CPU, see ddp_rank.py) as one process with the whole batch would."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ddp_graphs
from helpers.ddp_equality import CASES, records
from helpers.places import HELPERS
from helpers.scan_inputs import relative_error
from helpers.short_trainers import assert_equal

from nnunetv2_dsvm.quickstart import trainers
from nnunetv2_dsvm.training import variants
from nnunetv2_dsvm.training.distilled_trainer import nnUNetTrainerDistilled
from nnunetv2_dsvm.training.guards.distributed import sum_of_bits
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")


@pytest.fixture(scope="module")
def results(tiny_dataset, tmp_path_factory):
    """What the two ranks recorded, then what one process did; and the folder of their results."""
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**tiny_dataset.environment, "nnUNet_results": str(folder / "equality")}
    script, logs = HELPERS / "ddp_rank.py", [open(folder / f"log_{rank}", "w+") for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), port, folder],
            env={**os.environ, **environment, "NNUNETV2_DSVM_SEED": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.delenv("NNUNETV2_DSVM_SEED", raising=False)
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            alone = records(None)
            torch.set_num_threads(threads)
        for rank in ranks:
            rank.wait(timeout=900)
    finally:
        for rank in ranks:
            rank.kill()
    for rank, log in zip(ranks, logs, strict=True):
        log.seek(0)
        assert rank.returncode == 0, log.read()[-4000:]
        log.close()
    return [torch.load(folder / f"rank_{rank}.pt") for rank in range(2)], alone, folder


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process_with_the_whole_batch(results, case):
    (first, second), alone, _ = results
    norms = []
    # Of convolutions in front of an instance norm: rounding, with which they drift without a consequence.
    noisy = CASES[case].relative or case == "fine"
    noise = {n for n, g in alone[case][0]["gradients"].items() if noisy and g.norm() < 1e-12}
    assert all(name.endswith(".bias") for name in noise)
    for step, expected in enumerate(alone[case]):
        one, other = first["equality"][case][step], second["equality"][case][step]
        for name, value in expected["losses"].items():
            assert relative_error((one["losses"][name] + other["losses"][name]) / 2, value) <= 1e-6, (step, name)
        for kind in ("gradients", "weights"):
            assert_equal(one[kind], other[kind])
            for name, value in expected[kind].items():
                if name in noise:
                    continue
                assert relative_error(one[kind][name], value) <= 1e-6, (step, kind, name)
        # DDP raises where a parameter has no gradient; compiled, the head that does not count has one of zeros.
        others = one["gradients"].keys() - expected["gradients"].keys()
        assert len(others) == (2 if CASES[case].compiled else 0) and not any(one["gradients"][n].any() for n in others)
        norms.append(torch.stack([g.norm() for n, g in one["gradients"].items() if n.startswith("network.")]).norm())
    # nnU-Net clips the network's gradients to a norm of 12; ASP-VMUNet's first ones are larger.
    clipped = [float(norm) == pytest.approx(12, rel=1e-5) for norm in norms]
    assert case == "batch_norm" or all(clipped) == (case == "mse-clipped") == any(clipped)


@pytest.mark.parametrize("step", [*ddp_graphs.STEPS, "of a copy"])
def test_graphs_leave_gradients_where_ddp_averages_them(results, step):
    (first, expected, written), (second, _, _) = (rank["graphs"][step] for rank in results[0])
    for gradient, without_graphs in zip(first, expected, strict=True):
        assert relative_error(gradient, without_graphs) <= 1e-6
    if step != "not averaged":
        assert_equal(first, second)
    if step in ("replayed", "again", "replayed after all"):
        assert written == len(first) + 1  # by the graph, and to divide; DDP copies none


def test_every_other_variant_has_the_graph_of_one_of_these():
    tested = {case.trainer for case in CASES.values()}
    turning = "configure_rotation_dummyDA_mirroring_and_inital_patch_size"
    # An encoder is frozen by a learning rate of 0: its gradients are computed and averaged as ever. `scan` is what the
    # tested nnUNetTrainerDSVM_noScan states; the same in other lengths, and without the terms, is that of both; so are
    # `fine_channels` and `drop_path_rate` of the tested nnUNetTrainerDSVM_fine.
    network = {"scan", "fine_channels", "drop_path_rate"}
    same_graph = {"default_num_epochs", "default_initial_lr", "frozen_encoder_epochs", *network, turning}
    found = [*vars(variants).values(), *vars(trainers).values()]
    found = [c for c in found if isinstance(c, type) and issubclass(c, (nnUNetTrainerVMUNet, nnUNetTrainerDistilled))]
    assert len(found) > 50
    for trainer in found:
        base = next(parent for parent in trainer.__mro__ if parent in tested)
        others = [parent for parent in trainer.__mro__ if parent not in base.__mro__]
        own = {name for parent in others for name in vars(parent) if not name.startswith("__")}
        assert own <= same_graph, trainer


def test_ranks_stay_in_step_and_average_their_terms(results):
    (first, second), _, folder = results
    first, second = first["straight"], second["straight"]
    assert (first["stopped"], len(first["losses"]), len(second["losses"])) == ("", 6, 6)
    assert_equal(first["weights"], second["weights"])
    assert_equal(first["projections"], second["projections"])
    assert len({*first["drawn"], *second["drawn"]}) == 12  # the seed gives each rank and step images of its own
    own = [rank["own_terms"]["projection"] for rank in (first, second)]
    assert own[0] != own[1] and first["L_proj"] == second["L_proj"]
    assert first["L_proj"][-1] == pytest.approx(np.mean(own))
    checkpoint = torch.load(next((folder / "straight").rglob("checkpoint_final.pth")), weights_only=False)
    assert not any(name.startswith("module.") for name in checkpoint["nnunetv2_dsvm"]["projections"])


def test_a_continued_training_is_an_uninterrupted_one(results):
    for rank in results[0]:
        straight, cut, continued = rank["straight"], rank["cut"], rank["continued"]
        assert straight["losses"] == cut["losses"] + continued["losses"] and len(cut["losses"]) == 4
        assert_equal(straight["weights"], continued["weights"])
        assert_equal(straight["projections"], continued["projections"])
        assert not any(name.startswith(".partial_") for name in continued["files"])


def test_the_validation_is_shared_out(results):
    folder = next((results[2] / "straight").rglob("validation"))
    assert len(list(folder.glob("case_*.nii.gz"))) == 5
    assert len(json.loads((folder / "summary.json").read_text())["metric_per_case"]) == 5


def test_every_rank_stops_at_one_ranks_nan(results):
    first, second = (rank["nan"] for rank in results[0])
    assert len(first["drawn"]) == len(second["drawn"]) == 2
    for rank in (first, second):
        assert "the training loss became nan on GPU 1" in rank["stopped"]
        assert "; the images of case_" in rank["stopped"]


def test_differences_that_cancel_are_seen():
    """One unit in the last place more here, one less there: as rounding drifts."""
    weights = torch.randn(1000)
    other = weights.clone()
    other.view(torch.int32)[10] += 1
    other.view(torch.int32)[700] -= 1
    assert sum_of_bits(weights) != sum_of_bits(other) and sum_of_bits(weights) != sum_of_bits(weights.flip(0))


def test_every_rank_stops_where_their_weights_differ(results):
    for rank in results[0]:
        assert "1 of 117 parameters differ between GPUs, the first being" in rank["drift"]["stopped"]
        assert not any(name.endswith(".pth") for name in rank["drift"]["files"])


def test_every_rank_calls_the_same_collectives(results):
    first, second = (rank["collectives"] for rank in results[0])
    assert first == second and {"all_reduce", "all_gather", "all_gather_object"} <= set(first)
