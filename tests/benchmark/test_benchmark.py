"""`nnUNetv2_dsvm benchmark`: yardsticks are right, wrong results get no speed, numbers reach the table and JSON."""

import dataclasses
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from nnunetv2_dsvm.architecture.vm_unet import PRESETS, VMUNet
from nnunetv2_dsvm.benchmark import correctness, planned_memory, scaling, table
from nnunetv2_dsvm.benchmark.cases import plain_conv_unet
from nnunetv2_dsvm.benchmark.cases.conventional import conventional_network
from nnunetv2_dsvm.benchmark.cases.core import CoreCase
from nnunetv2_dsvm.benchmark.cases.network import DiceAndCrossEntropy, NetworkCase, NetworkSizes
from nnunetv2_dsvm.benchmark.cases.scan import ScanCase, ScanShape
from nnunetv2_dsvm.benchmark.cases.training_memory import TrainingCase, TrainingPeak, train_some_steps
from nnunetv2_dsvm.benchmark.cases.workload import Workload
from nnunetv2_dsvm.benchmark.correctness import WrongResult
from nnunetv2_dsvm.benchmark.measuring import measure
from nnunetv2_dsvm.benchmark.measuring.isolated import run_isolated
from nnunetv2_dsvm.benchmark.measuring.measure import Measurement
from nnunetv2_dsvm.benchmark.measuring.memory import PeakMemory, kept_for_backward
from nnunetv2_dsvm.benchmark.measuring.timing import ONCE, Effort, Timing, time_inference, time_training
from nnunetv2_dsvm.benchmark.planned_memory import planned_trainings
from nnunetv2_dsvm.benchmark.scaling import measure_scaling
from nnunetv2_dsvm.benchmark.sharing import SharingTimes, measure_sharing
from nnunetv2_dsvm.benchmark.suites import Result, Runner
from nnunetv2_dsvm.cli import main as command
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.ops.dispatch import BACKENDS

CPU = torch.device("cpu")
TINY = ["--device", "cpu", "--quick", "--repeats", "1", "--dims", "8,16", "--encoder-depths", "1,1"]
TINY += ["--decoder-depths", "1,1", "--size", "16", "--d-state", "2"]


@pytest.fixture
def in_this_process(monkeypatch):
    """Measures without a fresh process per case: fast, but the memory means little."""
    monkeypatch.setattr(measure, "run_isolated", lambda function, *arguments: function(*arguments))


def benchmark(*options):
    return command.main(["benchmark", *TINY, *options])


def scan_loop(u, delta, A, B, C, D, delta_bias):
    """What mamba-ssm's kernel computes, token by token."""
    per_group = u.shape[1] // B.shape[1]
    delta = F.softplus(delta + delta_bias[:, None])
    B, C = (t.repeat_interleave(per_group, dim=1) for t in (B, C))
    state, outputs = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[2]):
        state = torch.exp(delta[..., t, None] * A) * state + (delta[..., t] * u[..., t])[..., None] * B[..., t]
        outputs.append((state * C[..., t]).sum(-1) + D * u[..., t])
    return torch.stack(outputs, dim=-1)


class TestYardsticks:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_conventional_core_equals_ours(self, dtype):
        name = str(dtype).removeprefix("torch.")
        case = CoreCase("core", "conventional", 2, 3, 4, dim=16, d_state=4, dtype=name, device="cpu")
        assert correctness.check_core(case, scan=scan_loop) <= correctness.AUTOCAST_TOLERANCE[dtype]

    def test_conventional_network_equals_ours(self):
        sizes = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2}
        network = VMUNet(3, 2, **sizes, scan_backend="reference")
        twin = conventional_network(network, scan_loop)
        assert not any(type(m).__name__ == "VSSBlock" for m in twin.modules())
        assert correctness.check_network(twin, network, torch.float32, CPU) < 1e-5

    @pytest.mark.parametrize(("edge", "millions"), [(256, 33), (512, 46)])
    def test_plain_conv_unet_is_nnunets_size(self, edge, millions):
        with torch.device("meta"):
            network = plain_conv_unet.plain_conv_unet(3, 2, edge, edge)
        assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions

    def test_plain_conv_unet_that_cannot_be_imported_is_skipped_with_the_reason(
        self, monkeypatch, in_this_process, capsys
    ):
        monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
        assert benchmark("--suite", "network") == 0
        assert (
            "PlainConvUNet: not measured: dynamic-network-architectures cannot be imported" in capsys.readouterr().out
        )

    def test_loss_of_a_perfect_and_of_a_useless_prediction(self):
        target = torch.tensor([[[0, 1], [1, 0]]])
        perfect = 100 * F.one_hot(target, 2).permute(0, 3, 1, 2).float()
        loss = DiceAndCrossEntropy()
        assert loss(perfect, target).item() == pytest.approx(-1, abs=1e-4)
        assert loss(torch.zeros(1, 2, 2, 2), target).item() == pytest.approx(0.6931 - 0.5, abs=1e-3)


class TestCorrectnessFirst:
    @pytest.mark.parametrize("function", ["forward", "backward"])
    def test_a_wrong_backend_is_refused(self, function, monkeypatch, in_this_process, capsys, tmp_path):
        chunked = BACKENDS["torch_chunked"]
        right = getattr(chunked, function)

        def wrong(*arguments):
            result = right(*arguments)
            if function == "forward":
                return result[0] * 1.001, result[1]
            return (*result[:3], result[3] * 1.001, *result[4:])

        monkeypatch.setattr(chunked, function, wrong)
        file = tmp_path / "numbers.json"
        assert benchmark("--suite", "scan", "--backends", "torch_chunked", "--json", str(file)) == 1
        out = capsys.readouterr().out
        assert "torch_chunked: REFUSED" in out and ("of gradient of B" in out or "of output" in out)
        assert " ms" not in out
        (row,) = json.loads(file.read_text())["results"]
        assert row["failed"] and row["measurement"] is None

    def test_every_network_suite_refuses_too(self, monkeypatch, in_this_process, capsys):
        chunked = BACKENDS["torch_chunked"]
        right = chunked.forward
        monkeypatch.setattr(chunked, "forward", lambda i, save: (right(i, save)[0] + 0.1 * i.x, None))
        assert benchmark("--suite", "core,network,distillation") == 1
        assert capsys.readouterr().out.count("REFUSED") == 5  # core, block, VM-UNet, and the two of the distillation

    def test_a_result_that_is_not_finite_is_wrong(self):
        assert correctness.relative_l2(torch.tensor([1.0, float("nan")]), torch.ones(2)) == float("inf")

    def test_relative_l2(self):
        assert correctness.relative_l2(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0])) == pytest.approx(0.08)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_a_right_backend_passes(self, dtype):
        error = correctness.check_scan("torch_chunked", ScanShape.of_grid(2, (3, 4), 5, 2), dtype, CPU)
        assert 0 < error <= correctness.TOLERANCE[dtype]


class TestMeasuring:
    def test_workloads_take_turns_in_the_right_mode(self):
        calls = []
        workloads = {
            name: Workload(
                infer=lambda name=name: calls.append(f"{name} infers"),
                forward=lambda name=name: calls.append(f"{name} forward") or name,
                backward=lambda output: calls.append(f"{output} backward"),
                set_training=lambda training, name=name: calls.append(f"{name} training={training}"),
            )
            for name in "ab"
        }
        twice = Effort(warm_up=0, least=2, most=2, seconds=0, long_call=9)
        assert time_inference(workloads, CPU, twice)["a"].repeats == 2
        assert calls == ["a training=False", "b training=False"] + ["a infers", "b infers"] * 2
        calls.clear()
        forward, training = time_training(workloads, CPU, ONCE)["b"]
        assert calls[2:] == ["a forward", "a backward", "b forward", "b backward"]
        assert forward.median <= training.median

    def test_timing_is_median_and_range(self):
        assert Timing.of([3.0, 1.0, 2.0]) == Timing(median=2.0, fastest=1.0, slowest=3.0, repeats=3)

    def test_peak_memory_sees_what_was_freed(self):
        memory = PeakMemory(CPU)
        memory.set_baseline()
        torch.ones(2**24).sum()
        assert 60 * 2**20 < memory.read() < 100 * 2**20

    def test_kept_for_backward(self):
        x, w = torch.ones(1000, requires_grad=True), torch.ones(1000, requires_grad=True)
        assert kept_for_backward(lambda: x * w, CPU, held=(x, w)) == 0
        assert kept_for_backward(lambda: (x * w).exp().sin(), CPU, held=(x, w)) == 4000

    def test_a_case_in_a_fresh_process(self):
        case = ScanCase("torch_chunked", ScanShape.of_grid(1, (16, 16), 32, 4), "float32", "cpu")
        result = measure.measure(case, ONCE)
        assert result.training.median > result.forward.median > 0
        assert result.training_bytes > 0

    def test_a_process_that_fails_says_why(self):
        with pytest.raises(RuntimeError, match="(?s)ended with status 1.*ZeroDivisionError"):
            run_isolated(divmod, 1, 0)


class TestCommand:
    def test_every_suite_in_table_and_json(self, in_this_process, capsys, tmp_path):
        file = tmp_path / "numbers.json"
        assert benchmark("--json", str(file)) == 0
        out = capsys.readouterr().out
        for title in ("Selective scan", "SS2D core", "Network", "Dual self-distillation"):
            assert title in out
        written = json.loads(file.read_text())
        assert written["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
        rows = {(r["suite"], r["case"].split(",")[0], r["implementation"]): r for r in written["results"]}
        assert rows["distillation", "batch 2", "DSVM-UNet"]["training_speedup"] > 0
        assert rows["scan", "batch 2", "torch_chunked"]["compared_with"] == "reference"
        assert rows["core", "block", "ours"]["measurement"]["kept_bytes"] > 0
        assert rows["core", "core", "conventional"]["measurement"] is None
        assert rows["network", "batch 2", "PlainConvUNet"]["measurement"]["inference"]["median"] > 0

    def test_the_default_on_a_cpu_is_the_documented_scan(self):
        plan = self._plan("--device", "cpu")
        (images,) = plan.scan_images
        assert (images.batch, images.tokens(1), 2 * plan.sizes.dims[0], plan.sizes.d_state) == (2, (64, 64), 192, 16)
        assert (tuple(plan.scan_stages), plan.dtype) == ((1,), "float32")

    def test_batch_and_size_hold_for_every_suite(self):
        plan = self._plan("--device", "cpu", "--batch", "3", "--size", "40x24")
        for images in (plan.scan_images, plan.core_images, plan.network_images, plan.scaling_images):
            assert [dataclasses.astuple(i) for i in images] == [(3, 40, 24)]
        assert plan.scan_images[0].tokens(4) == (2, 1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--backends", "fast"], "unknown scan backend fast"),
            (["--stages", "5"], "stages"),
            (["--dims", "8,16"], "one entry per stage"),
            *([] if torch.cuda.is_available() else [(["--device", "cuda"], "no CUDA device")]),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, options, message):
        with pytest.raises(UserError, match=message):
            self._plan(*options)

    @staticmethod
    def _plan(*options):
        import argparse

        from nnunetv2_dsvm.benchmark.settings import make_plan
        from nnunetv2_dsvm.cli.benchmark import add_arguments

        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return make_plan(parser.parse_args(options))

    def test_ratios_are_against_the_yardstick(self):
        def result(name, seconds, count):
            timing = Timing(seconds, seconds, seconds, 1)
            return Result("scan", "case", name, Measurement(timing, timing, timing, count, count))

        text = table.as_table([result("torch_chunked", 0.1, 2**20), result("reference", 2.0, 2**22)])
        fast, slow = text.splitlines()[-2:]
        assert "×20" in fast and "/0.25" in fast
        assert "×" not in slow and "2000" in slow

    def test_a_case_that_does_not_fit_does_not_end_the_run(self, monkeypatch, in_this_process):
        def out_of_memory(*_):
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr("nnunetv2_dsvm.benchmark.suites.measure", out_of_memory)
        plan = self._plan("--device", "cpu", "--quick", "--size", "8", "--d-state", "2", "--backends", "torch_chunked")
        (result,) = Runner(plan, lambda _: None).run("scan")
        assert result.measurement is None and "does not fit" in result.note and not result.failed

    def test_needs_no_nnunet(self):
        code = "import sys; sys.modules['nnunetv2'] = None; import nnunetv2_dsvm.benchmark.settings"
        subprocess.run([sys.executable, "-c", code], check=True)


class TestScaling:
    CASE = NetworkCase("DSVM-UNet", 4, 16, 16, NetworkSizes((8, 16), (1, 1), (1, 1), 2), "float32", "cpu")

    def test_two_processes_share_a_batch_and_end_with_the_same_weights(self):
        times = measure_scaling(self.CASE, ranks=2, repeats=2)
        assert times.training.repeats == times.alone_training.repeats == 2
        assert times.training.median > times.forward.median > 0

    def test_weights_that_differ_are_a_wrong_result(self, monkeypatch):
        monkeypatch.setattr(scaling, "_rank", rank_without_ddp)
        with pytest.raises(WrongResult, match="differ between 2 GPUs"):
            measure_scaling(self.CASE, ranks=2, repeats=1)

    def test_a_batch_that_cannot_be_divided_is_refused(self):
        with pytest.raises(ValueError, match="batch of 4 cannot be shared by 3"):
            measure_scaling(self.CASE, ranks=3, repeats=1)

    def test_a_batch_that_cannot_be_divided_or_does_not_fit_is_no_failure(self, monkeypatch, capsys):
        def too_large(*_, **__):
            raise torch.OutOfMemoryError("CUDA out of memory.")

        one_gpu = Result("scaling", "case", "1 GPU", note="not measured in this test")
        monkeypatch.setattr("nnunetv2_dsvm.benchmark.suites.rank_counts", lambda device: [2, 8])
        monkeypatch.setattr(Runner, "_measured", lambda *arguments: one_gpu)
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

        monkeypatch.setattr("nnunetv2_dsvm.benchmark.suites.measure_sharing", measured)
        file = tmp_path / "numbers.json"
        assert benchmark("--suite", "sharing", "--json", str(file)) == 0
        assert "VM-UNet, batch 2" in (printed := capsys.readouterr().out) and "×0.5" in printed
        rows = [row for row in json.loads(file.read_text())["results"] if row["case"].startswith("VM-UNet")]
        assert [row["implementation"] for row in rows] == ["one process", "two at once"]
        assert rows[1]["inference_speedup"] == 0.5 and rows[1]["error"] < 1e-4

    def test_by_default_it_is_the_preset_small_and_one_image(self):
        plan = TestCommand._plan("--device", "cpu")
        assert [dataclasses.astuple(images) for images in plan.sharing_images] == [(1, 256, 256)]
        assert plan.sharing_sizes.dims == PRESETS["small"]["dims"] and plan.sharing_sizes.d_state == 8

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
            {},
        ],
    )
    def test_the_trainings_are_nnunets_own_steps(self, monkeypatch, labels):
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", "")  # what it sets is undone
        case = TrainingCase((24, 40), 2, self.TINY, input_channels=2, **labels)
        trainer = train_some_steps(case, CPU)
        terms = trainer.loss.mean_terms()
        assert set(terms) == {"segmentation", "projection", "progressive"} and all(map(math.isfinite, terms.values()))
        assert trainer.label_manager.has_regions == ("regions_class_order" in labels)

    def test_each_target_that_fits_is_filled(self):
        trainings = planned_trainings(40 * 10**9)
        assert {t.target_gb for t in trainings} == {8, 12, 24, 40} and len(trainings) == 16
        assert all(0.8 * t.target_gb * 1e9 < t.planned <= t.target_gb * 1e9 for t in trainings)

    def test_more_than_planned_is_said_and_fails(self, monkeypatch, tmp_path, capsys):
        one = planned_trainings(8 * 10**9)[0]
        take = {"enough": one.planned - 1e9, "too much": one.planned - 0.5e9}
        for name, reserved in take.items():
            measured = [dataclasses.replace(one, peak=TrainingPeak(0, round(reserved), round(0.9e9)))]
            args = ["benchmark", "--device", "cpu", "--quick", "--suite", "memory", "--json", str(tmp_path / "a.json")]
            monkeypatch.setattr("nnunetv2_dsvm.cli.benchmark._planned_memory", lambda *_, m=measured: m)
            assert command.main(args) == (name == "too much")
            assert ("more memory than planned" in capsys.readouterr().err) == (name == "too much")
            (row,) = json.loads((tmp_path / "a.json").read_text())["planned_memory"]
            assert row["planned"] == one.planned and row["peak"]["reserved"] == round(reserved)
        assert f"{(take['too much'] + 0.9e9) / one.planned:.3f} |" in planned_memory.as_table(measured)

    def test_a_training_that_does_not_fit_is_a_failure(self, monkeypatch):
        def too_large(*_):
            raise RuntimeError("Traceback\ntorch.OutOfMemoryError: CUDA out of memory.")

        monkeypatch.setattr(planned_memory, "run_isolated", too_large)
        monkeypatch.setattr(
            "torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=8 * 10**9), raising=False
        )
        trainings = list(planned_memory.measure_planned(lambda _: None))
        assert len(trainings) == 4 and all(t.took_more and "out of memory" in t.peak for t in trainings)

    def test_it_needs_a_gpu(self, capsys):
        assert command.main(["benchmark", "--device", "cpu", "--suite", "memory"]) == 1
        assert "needs a CUDA GPU, got --device cpu" in capsys.readouterr().err


def rank_without_ddp(rank, ranks, port, case, repeats, answers):
    class NotShared(torch.nn.parallel.DistributedDataParallel):
        def forward(self, *inputs):
            with self.no_sync():
                return super().forward(*inputs)

    scaling.DistributedDataParallel = NotShared
    scaling._rank(rank, ranks, port, case, repeats, answers)
