"""Benchmarks of several processes: GPUs that share a batch, a CPU that is shared, trainings that fill a GPU."""

import dataclasses
import json
import math
import os
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_benchmark import benchmark
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.benchmark import planned_memory, scaling
from nnunetv2_dsvm.benchmark import run as run_module
from nnunetv2_dsvm.benchmark.cases.network import NetworkCase, NetworkSizes
from nnunetv2_dsvm.benchmark.cases.training_memory import TrainingCase, TrainingPeak, train_some_steps
from nnunetv2_dsvm.benchmark.measuring.timing import ONCE, Timing
from nnunetv2_dsvm.benchmark.planned_memory import planned_trainings
from nnunetv2_dsvm.benchmark.result import BenchmarkResult
from nnunetv2_dsvm.benchmark.run import BenchmarkResults
from nnunetv2_dsvm.benchmark.runner import Runner
from nnunetv2_dsvm.benchmark.scaling import measure_scaling
from nnunetv2_dsvm.benchmark.settings import choose_settings
from nnunetv2_dsvm.benchmark.sharing import SharingTimes, measure_sharing
from nnunetv2_dsvm.cli import main as command
from nnunetv2_dsvm.ops.testing import WrongResult
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan

CPU = torch.device("cpu")


class TestScaling:
    CASE = NetworkCase("DSVM-UNet", 4, 16, 16, NetworkSizes((8, 16), (1, 1), (1, 1), 2), "float32", "cpu")

    def test_two_processes_share_a_batch_and_end_with_the_same_weights(self):
        times = measure_scaling(self.CASE, ranks=2, repeats=2)
        assert times.training.repeats == times.alone_training.repeats == 2
        assert times.training.median > times.forward.median > 0

    def test_weights_that_differ_are_a_wrong_result(self, monkeypatch):
        monkeypatch.setattr(scaling, "time_rank", rank_without_ddp)
        with pytest.raises(WrongResult, match="differ between 2 GPUs"):
            measure_scaling(self.CASE, ranks=2, repeats=1)

    def test_a_batch_that_cannot_be_divided_is_refused(self):
        with pytest.raises(ValueError, match="batch of 4 cannot be shared by 3"):
            measure_scaling(self.CASE, ranks=3, repeats=1)

    def test_a_batch_that_cannot_be_divided_or_does_not_fit_is_no_failure(self, monkeypatch, capsys):
        def too_large(*_, **__):
            raise torch.OutOfMemoryError("CUDA out of memory.")

        one_gpu = BenchmarkResult("scaling", "case", "1 GPU", note="not measured in this test")
        monkeypatch.setattr("nnunetv2_dsvm.benchmark.process_suites.rank_counts", lambda device: [2, 8])
        monkeypatch.setattr(Runner, "measured", lambda *arguments: one_gpu)
        monkeypatch.setattr(scaling.multiprocessing, "spawn", too_large)
        assert benchmark("--suite", "scaling") == 0
        printed = capsys.readouterr().out
        assert (
            "does not fit into the memory of these 2 GPUs" in printed
            and "a batch of 2 cannot be shared by 8" in printed
        )

    def test_without_a_second_gpu_the_command_says_so(self, capsys):
        assert benchmark("--suite", "scaling") == 0
        assert "two GPUs are needed" in capsys.readouterr().out


class TestSharing:
    def test_two_processes_at_once(self):
        case = NetworkCase("VM-UNet", 1, 16, 16, NetworkSizes((8, 16), (1, 1), (1, 1), 2), "float32", "cpu")
        times = measure_sharing(case, 2, dataclasses.replace(ONCE, least=2))
        assert times.inference.repeats == times.training.repeats == 2
        assert times.training.median > times.forward.median > 0

    def test_the_table_has_one_process_two_and_the_speed_left(self, monkeypatch, capsys, tmp_path):
        def measured(case, processes, effort):
            timing = Timing.of([0.1 * processes])
            return SharingTimes(timing, timing, timing)

        monkeypatch.setattr("nnunetv2_dsvm.benchmark.process_suites.measure_sharing", measured)
        file = tmp_path / "numbers.json"
        assert benchmark("--suite", "sharing", "--json", str(file)) == 0
        assert "VM-UNet, batch 2" in (printed := capsys.readouterr().out) and "×0.5" in printed
        rows = [row for row in json.loads(file.read_text())["results"] if row["case"].startswith("VM-UNet")]
        assert [row["implementation"] for row in rows] == ["one process", "two at once"]
        assert rows[1]["inference_speedup"] == 0.5 and rows[1]["error"] < 1e-4

    def test_by_default_it_is_the_preset_small_and_one_image(self):
        settings = choose_settings(device="cpu")
        assert [(images.batch, *images.sizes) for images in settings.sharing_images] == [(1, 256, 256)]
        assert settings.sharing_sizes.dims == PRESETS["small"]["dims"] and settings.sharing_sizes.d_state == 8

    def test_wrong_results_get_no_speed(self, monkeypatch, capsys):
        def wrong(*_):
            raise WrongResult("of output")

        monkeypatch.setattr("nnunetv2_dsvm.benchmark.checks.Checks.network", wrong)
        assert benchmark("--suite", "sharing") == 1
        assert "one process: REFUSED: wrong result" in capsys.readouterr().out


class TestPlannedMemory:
    TINY = {"dims": [8, 16], "encoder_depths": [1, 1], "decoder_depths": [1, 1], "d_state": 2}

    @pytest.mark.parametrize(
        "labels",
        [
            {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": (1, 2)},
            {"labels": {"background": 0, "one": 1, "ignore": 2}},
            {"patch_size": (4, 24, 40), "strides": [[1, 1, 1], [1, 4, 4], [2, 2, 2]]},
        ],
    )
    def test_the_trainings_are_nnunets_own_steps(self, monkeypatch, labels):
        labels, patch_size, sizes = {**labels}, (24, 40), self.TINY
        if "strides" in labels:
            patch_size, sizes = labels.pop("patch_size"), {**sizes, "strides": labels.pop("strides")}
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", "")  # what it sets is undone
        case = TrainingCase(patch_size, 2, sizes, input_channels=2, **labels)
        trainer = train_some_steps(case, CPU)
        terms = trainer.loss.mean_terms()
        assert set(terms) == {"segmentation", "projection", "progressive"} and all(map(math.isfinite, terms.values()))
        assert trainer.label_manager.has_regions == ("regions_class_order" in labels)

    def test_each_target_that_fits_is_filled(self):
        trainings = planned_trainings(40 * 10**9)
        assert {t.target_gb for t in trainings} == {8, 12, 24, 40} and len(trainings) == 28
        assert all(t.planned <= t.target_gb * 1e9 for t in trainings)
        for t in trainings:  # the next image would not fit
            assert dataclasses.replace(t, batch_size=t.batch_size + 1).planned > t.target_gb * 1e9
        volumes = [t for t in trainings if len(t.patch_size) == 3]
        assert len(volumes) == 12 and all(t.batch_size >= 2 and t.case().plans() for t in volumes)
        for t in volumes:  # the planner's own way from such a patch to a network
            spacing = {48: (3, 0.76, 0.76)}.get(t.patch_size[0], (1, 1, 1))
            strides = strides_of_plan(get_pool_and_conv_props(spacing, t.patch_size, 4, 999999)[1])
            assert [list(step) for step in t.strides] == strides

    def test_more_than_planned_is_said_and_fails(self, monkeypatch, tmp_path, capsys):
        one = planned_trainings(8 * 10**9)[0]
        take = {"enough": one.planned - 1e9, "too much": one.planned - 0.5e9}
        for name, reserved in take.items():
            measured = [dataclasses.replace(one, peak=TrainingPeak(0, round(reserved), round(0.9e9)))]
            found = BenchmarkResults({}, choose_settings(device="cpu"), [], measured)
            monkeypatch.setattr(
                run_module,
                "benchmark",
                lambda *_, show_memory, found=found, **__: show_memory(found.planned_memory) or found,
            )
            assert benchmark("--json", str(tmp_path / "a.json")) == (name == "too much")
            assert ("more memory than planned" in (shown := capsys.readouterr()).err) == (name == "too much")
            (row,) = json.loads((tmp_path / "a.json").read_text())["planned_memory"]
            assert row["planned"] == one.planned and row["peak"]["reserved"] == round(reserved)
        assert f"{(take['too much'] + 0.9e9) / one.planned:.3f} |" in shown.out
        assert benchmark("--json", os.devnull) == 1  # written where it is, for nothing can replace a device

    @pytest.mark.parametrize("kind", [RuntimeError, AttributeError])
    def test_a_training_that_does_not_fit_is_a_failure(self, monkeypatch, kind):
        def too_large(*_):
            raise kind("Traceback\ntorch.OutOfMemoryError: CUDA out of memory.")

        monkeypatch.setattr(planned_memory, "run_isolated", too_large)
        monkeypatch.setattr(
            "torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=8 * 10**9), raising=False
        )
        trainings = list(planned_memory.measure_planned(lambda _: None))
        assert len(trainings) == 7 and all(t.took_more and "out of memory" in t.peak for t in trainings)

    def test_it_needs_a_gpu(self, capsys):
        assert command.main(["benchmark", "--device", "cpu", "--suite", "memory"]) == 1
        assert "needs a CUDA GPU, got --device cpu" in capsys.readouterr().err


def rank_without_ddp(rank, ranks, port, case, repeats, answers):
    class NotShared(torch.nn.parallel.DistributedDataParallel):
        def forward(self, *inputs):
            with self.no_sync():
                return super().forward(*inputs)

    scaling.in_ddp = NotShared
    scaling.time_rank(rank, ranks, port, case, repeats, answers)
