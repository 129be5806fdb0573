"""`nnUNetv2_dsvm benchmark`: what is measured, and how numbers reach the table and JSON."""

import dataclasses
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_benchmark import benchmark

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.benchmark import run as run_module
from nnunetv2_dsvm.benchmark import suites, table
from nnunetv2_dsvm.benchmark.cases.family import FamilyCase
from nnunetv2_dsvm.benchmark.cases.network import NetworkCase, NetworkSizes
from nnunetv2_dsvm.benchmark.cases.scan import ScanCase
from nnunetv2_dsvm.benchmark.cases.workload import Workload
from nnunetv2_dsvm.benchmark.image_shape import ImageShape, halved
from nnunetv2_dsvm.benchmark.measuring import measure
from nnunetv2_dsvm.benchmark.measuring.isolated import run_isolated
from nnunetv2_dsvm.benchmark.measuring.measure import Measurement
from nnunetv2_dsvm.benchmark.measuring.memory import PeakMemory, kept_for_backward
from nnunetv2_dsvm.benchmark.measuring.timing import ONCE, Effort, Timing, time_inference, time_training
from nnunetv2_dsvm.benchmark.result import BenchmarkResult
from nnunetv2_dsvm.benchmark.run import BenchmarkResults
from nnunetv2_dsvm.benchmark.run import benchmark as run_benchmark
from nnunetv2_dsvm.benchmark.runner import Runner
from nnunetv2_dsvm.benchmark.settings import choose_settings
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.ops.scan_inputs import ScanShape

CPU = torch.device("cpu")


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

    def test_a_relative_gets_ready_on_the_measured_shape_where_kernels_are_compiled(self):
        of = {
            d: FamilyCase.of(NetworkCase("VM-UNet", 32, 256, 256, NetworkSizes(), "float32", d), "X")
            for d in ("cpu", "cuda")
        }
        assert of["cuda"].tiny() == of["cuda"]
        assert of["cpu"].tiny() == dataclasses.replace(of["cpu"], batch=2, height=64, width=64)

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

    def test_says_which_phase_begins_where_it_measures_in_this_process(self):
        calls = []
        work = Workload(
            lambda: calls.append("infers"), lambda: calls.append("forward"), lambda _: calls.append("backward")
        )
        case = SimpleNamespace(device="meta", counts_weights=True, wants_kept=False, build=lambda: work)
        case.tiny = lambda: case
        measure.measure(case, ONCE, calls.append)
        step = ["forward", "backward"]
        first = ["first calls, which compile kernels", "infers", *step]
        assert calls == [*first, "inference", "infers", "training", *step]

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

    def test_each_relative_of_the_family(self, in_this_process, capsys, tmp_path):
        file = tmp_path / "numbers.json"
        assert benchmark("--suite", "family", "--size", "32", "--json", str(file)) == 0
        out, err = capsys.readouterr()
        assert "Relatives of VM-UNet" in out
        shown = [line.partition(", ")[2] for line in err.splitlines()]
        ended, begun = (next(i for i, line in enumerate(shown) if text in line) for text in (" ms", "VMUNetV2: check"))
        assert ended < begun and re.search(
            r"PlainConvUNet: inference .* ms, forward .* ms, training .* ms$", shown[ended]
        )
        rows = {r["implementation"]: r for r in json.loads(file.read_text())["results"]}
        assert rows.keys() == {"PlainConvUNet", *RELATIVES, *(f"conventional {name}" for name in RELATIVES)}
        for name in RELATIVES:
            assert rows[name]["error"] < 1e-4 and rows[name]["compared_with"] == "PlainConvUNet"
            assert rows[f"conventional {name}"]["measurement"] is None  # mamba-ssm's kernel needs CUDA

    def test_chosen_relatives_alone(self, monkeypatch, tmp_path):
        monkeypatch.setattr(Runner, "measured", lambda self, *names_and_case: BenchmarkResult(*names_and_case[:3]))
        file = tmp_path / "numbers.json"
        chosen = ("UMambaEnc", "LightMUNet", "UMambaEnc")
        assert benchmark("--suite", "family", "--size", "32", "--relatives", *chosen, "--json", str(file)) == 0
        found = json.loads(file.read_text())
        names = ["PlainConvUNet", *(n + each for each in ("UMambaEnc", "LightMUNet") for n in ("", "conventional "))]
        assert [row["implementation"] for row in found["results"]] == names
        assert found["settings"]["relatives"] == ["UMambaEnc", "LightMUNet"]

    def test_the_default_on_a_cpu_is_the_documented_scan(self):
        settings = choose_settings(device="cpu")
        images, volumes = settings.scan_images
        assert (images.batch, images.tokens(1)) == (2, (64, 64))
        assert (volumes.batch, volumes.tokens(1), volumes.tokens(3)) == (1, (8, 8, 8), (2, 2, 2))
        assert (2 * settings.sizes.dims[0], settings.sizes.d_state) == (192, 16)
        assert (tuple(settings.scan_stages), settings.dtype) == ((1,), "float32")

    def test_batch_and_size_hold_for_every_suite(self):
        chosen = choose_settings(device="cpu", batch=3, size=(40, 24))
        for images in (chosen.scan_images, chosen.core_images, chosen.network_images, chosen.scaling_images):
            assert [(i.batch, i.sizes) for i in images] == [(3, (40, 24))]
        assert chosen.scan_images[0].tokens(4) == (2, 1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"backends": ["fast"]}, "unknown scan backend fast"),
            ({"relatives": ["UMambaEnc", "UMamba"]}, "unknown relative UMamba: choose any of VMUNetV2, .*ASPVMUNet"),
            ({"stages": (5,)}, "stages"),
            ({"dims": (8, 16)}, "one entry per stage"),
            *([] if torch.cuda.is_available() else [({"device": "cuda"}, "no CUDA device")]),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, options, message):
        with pytest.raises(UserError, match=message):
            choose_settings(**options)

    @pytest.mark.parametrize(
        ("device", "compile", "expected"),
        [
            ("cuda", False, ["PlainConvUNet", "PlainConvUNet, compiled", "VM-UNet"]),
            ("cuda", True, ["PlainConvUNet", "PlainConvUNet, compiled", "VM-UNet", "VM-UNet, compiled"]),
            ("cpu", False, ["PlainConvUNet", "VM-UNet"]),
        ],
    )
    def test_plain_conv_unet_is_compiled_where_nnunet_compiles(self, device, compile, expected, monkeypatch):
        settings = dataclasses.replace(choose_settings(device="cpu", quick=True, compile=compile), device=device)
        monkeypatch.setattr(suites.conventional, "kernel", lambda: (None, "not here"))
        monkeypatch.setattr(Runner, "measured", lambda self, suite, label, name, case, check: (name, case.compiled))
        rows = suites.network(Runner(settings, lambda _: None))
        measured = [row for row in rows if isinstance(row, tuple)]
        assert measured == 2 * [(name, name.endswith("compiled")) for name in expected]  # images, then volumes

    def test_on_a_gpu_the_distillation_of_nnunets_network_is_measured_as_it_trains(self, monkeypatch):
        settings = dataclasses.replace(choose_settings(device="cpu", quick=True), device="cuda", network_images=())
        cases = []

        def note(self, suite, label, name, case, check):
            cases.append((label, name, case.compiled, case.both_terms, case.dtype))
            return BenchmarkResult(suite, label, name)

        monkeypatch.setattr(Runner, "measured", note)
        assert len(list(suites.distillation(Runner(settings, lambda _: None)))) == 2
        label, name = "batch 2, 16×16×16, float16", "PlainConvUNet, compiled"
        assert cases == [(label, name, True, False, "float16"), (label, f"{name}, both terms", True, True, "float16")]

    def test_compiled_with_and_without_the_terms_in_turns(self, monkeypatch):
        """Two networks of a class, one of them with taps, which torch.compile does not see unless told to."""
        compile_anything, compiled = torch.compile, []

        def compile_in_one_piece(module, **options):
            compiled.append(type(module).__name__)
            return compile_anything(module, backend="eager", fullgraph=True, **options)

        def measured(self, suite, label, name, case, check):
            bytes_of_step = 1080 if case.both_terms else 1000
            return BenchmarkResult(suite, label, name, Measurement(timing, timing, timing, 9, bytes_of_step))

        timing = Timing(1.0, 1.0, 1.0, 1)
        monkeypatch.setattr(torch, "compile", compile_in_one_piece)
        monkeypatch.setattr(Runner, "measured", measured)
        settings = choose_settings(device="cpu", quick=True, compile=True, repeats=1)
        volumes = [ImageShape(2, 8, 8, 8, halved(2))]
        settings = dataclasses.replace(settings, network_images=(), network_volumes=volumes)
        results = list(suites.distillation(Runner(settings, lambda _: None)))
        assert [r.implementation for r in results] == [
            "PlainConvUNet, compiled",
            "PlainConvUNet, compiled, both terms",
        ]
        assert compiled == ["PlainConvUNet", "PlainConvUNet", "DualSelfDistillation"]
        assert all(r.measurement.training != timing for r in results)
        row = table.as_table(results).splitlines()[-1]
        assert "+8.0%" in row and row.count("%") - row.count("±") == 5  # three times, two memories

    def test_volumes(self, in_this_process):
        """Scan, core, block and convolution of a volume are measured, and its networks can be."""
        options = {"dims": (8, 16, 32), "encoder_depths": (1,) * 3, "decoder_depths": (1,) * 3, "d_state": 2}
        settings = choose_settings(device="cpu", quick=True, repeats=1, **options)
        (volume,) = settings.network_volumes
        only = dataclasses.replace(settings, scan_images=[volume], core_images=[volume], backends=["torch_chunked"])
        found = run_benchmark(only, ["scan", "core"])
        measured = [(r.suite, r.case.split(", ")[0], r.implementation) for r in found.results if r.measurement]
        assert measured == [
            ("scan", "batch 2", "torch_chunked"),
            ("core", "core", "ours"),
            ("core", "block", "ours"),
            ("core", "convolution", "torch"),
        ]
        assert not found.failed and all("8×8×8 tokens" in result.case for result in found.results)
        for implementation in ("PlainConvUNet", "VM-UNet"):
            work = Runner(settings, lambda _: None).network_case(implementation, volume).build()
            assert work.infer().shape == (2, 2, 16, 16, 16)
            work.backward(work.forward())

    def test_sizes_that_make_no_network_are_refused(self):
        with pytest.raises(UserError, match="these sizes give no VM-UNet: fine_channels must be a whole number"):
            choose_settings(device="cpu", fine_channels=-1)

    def test_volumes_need_as_many_stages_as_planned(self):
        options = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1)}
        assert choose_settings(device="cpu", quick=True, **options).network_volumes == ()

    def test_options_reach_the_settings(self, monkeypatch):
        asked = []

        def remember(settings, suites, **_):
            asked.append((settings, suites))
            return BenchmarkResults({}, settings, [], [])

        monkeypatch.setattr(run_module, "benchmark", remember)
        options = [
            "--batch",
            "3",
            "--size",
            "40x24",
            "--stages",
            "2",
            "--dtype",
            "bfloat16",
            "--repeats",
            "9",
            "--compile",
            "--fine-channels",
            "4",
        ]
        options += ["--suite", "scan,sharing", "--backends", "reference", "--scan-backend", "torch_chunked"]
        assert benchmark(*options) == 0
        expected = choose_settings(
            device="cpu", quick=True, dims=(8, 16), encoder_depths=(1, 1), decoder_depths=(1, 1), d_state=2, batch=3,
            size=(40, 24), stages=(2,), dtype="bfloat16", repeats=9, compile=True, backends=["reference"],
            scan_backend="torch_chunked", fine_channels=4,
        )  # fmt: skip
        network = Runner(expected, lambda _: None).network_case("VM-UNet", expected.network_images[0]).vm_unet()
        assert network.sizes.fine_channels == 4
        assert asked == [(expected, ["scan", "sharing"])]
        assert expected.scan_stages == (2,) and expected.effort.least == 9 and expected.compile

    def test_as_a_call(self, in_this_process):
        options = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2}
        settings = choose_settings(device="cpu", quick=True, repeats=1, size=(16, 16), **options)
        shown = []
        found = run_benchmark(settings, ["scan"], show=shown.append)
        assert [r.implementation for r in found.results if r.measurement] == ["torch_chunked", "reference"]
        assert shown == [found.results] and found.failed == [] and found.environment["device"] == "cpu"
        with pytest.raises(UserError, match="unknown suite scam: choose any of scan,"):
            run_benchmark(settings, ["scam"])

    def test_ratios_are_against_the_yardstick(self):
        def result(name, seconds, count):
            timing = Timing(seconds, seconds, seconds, 1)
            return BenchmarkResult("scan", "case", name, Measurement(timing, timing, timing, count, count))

        text = table.as_table([result("torch_chunked", 0.1, 2**20), result("reference", 2.0, 2**22)])
        fast, slow = text.splitlines()[-2:]
        assert "×20" in fast and "/0.25" in fast
        assert "×" not in slow and "2000" in slow

    def test_a_case_that_does_not_fit_does_not_end_the_run(self, monkeypatch, in_this_process):
        def out_of_memory(*_):
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr("nnunetv2_dsvm.benchmark.runner.measure", out_of_memory)
        settings = choose_settings(device="cpu", quick=True, size=(8, 8), d_state=2, backends=["torch_chunked"])
        (result,) = suites.scan(Runner(settings, lambda _: None))
        assert result.measurement is None and "does not fit" in result.note and not result.failed

    @pytest.mark.parametrize(
        ("error", "status"),
        [(AttributeError("no weight"), 1), (RuntimeError("Traceback\nKeyError: 3"), 1), (KeyboardInterrupt(), 130)],
        ids=lambda v: type(v).__name__,
    )
    def test_what_was_measured_before_an_error_is_kept(
        self, error, status, monkeypatch, in_this_process, capsys, tmp_path
    ):
        """Of two lines the second one fails: a row of its own, or with Ctrl-C the end of the run."""
        file, timing = tmp_path / "numbers.json", Timing(1.0, 1.0, 1.0, 1)

        def measured(case, effort, phase):
            if case.backend == "reference":
                (kept,) = json.loads(file.read_text())["results"]
                assert kept["implementation"] == "torch_chunked" and not kept["failed"]
                raise error
            return Measurement(timing, timing, timing, 9, 9)

        monkeypatch.setattr("nnunetv2_dsvm.benchmark.runner.measure", measured)
        options = ("--suite", "scan,sharing", "--backends", "torch_chunked,reference", "--json", str(file))
        monkeypatch.setattr("nnunetv2_dsvm.benchmark.process_suites.measure_sharing", lambda *_: 1 / 0)
        assert benchmark(*options) == status
        rows, printed = json.loads(file.read_text())["results"], capsys.readouterr().out
        assert rows[0]["measurement"]["training"]["median"] == 1 and " 1000 " in printed
        if status == 130:
            assert len(rows) == 1
            return
        note = f"failed: {type(error).__name__}: {str(error).splitlines()[-1]}"
        assert rows[1]["note"] == note and f"reference: REFUSED: {note}" in printed
        assert {r["note"] for r in rows[2:]} == {"failed: ZeroDivisionError: division by zero"} and len(rows) == 6

    def test_an_error_of_the_timing_in_turns_is_a_failure_of_both(self, monkeypatch):
        def measured(self, suite, label, name, case, check):
            return BenchmarkResult(suite, label, name, Measurement(None, timing, timing, 9, 9))

        timing = Timing(1.0, 1.0, 1.0, 1)
        monkeypatch.setattr(Runner, "measured", measured)
        monkeypatch.setattr("nnunetv2_dsvm.benchmark.suites.time_inference", lambda *_: {}["missing"])
        sizes = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2, "size": (16, 16)}
        settings = dataclasses.replace(choose_settings(device="cpu", quick=True, **sizes), network_volumes=())
        results = list(suites.distillation(Runner(settings, lambda _: None)))
        assert len(results) == 2 and all(r.failed and r.measurement is None for r in results)
        assert {r.note for r in results} == {"failed: KeyError: 'missing'"}

    def test_needs_no_nnunet(self):
        code = "import sys; sys.modules['nnunetv2'] = None; import nnunetv2_dsvm.benchmark.table"
        subprocess.run([sys.executable, "-c", code], check=True)
