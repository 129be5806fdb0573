"""The benchmark's yardsticks are right, and a wrong result gets no speed."""

import json
import math
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_benchmark import benchmark

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.benchmark import correctness
from nnunetv2_dsvm.benchmark.cases import plain_conv_unet
from nnunetv2_dsvm.benchmark.cases.conventional import conventional_network
from nnunetv2_dsvm.benchmark.cases.core import CoreCase
from nnunetv2_dsvm.benchmark.cases.family import FamilyCase, conventional_relative
from nnunetv2_dsvm.benchmark.cases.network import DiceAndCrossEntropy, NetworkCase, NetworkSizes
from nnunetv2_dsvm.benchmark.cases.workload import Workload
from nnunetv2_dsvm.benchmark.checks import Checks
from nnunetv2_dsvm.benchmark.image_shape import halved
from nnunetv2_dsvm.benchmark.settings import choose_settings
from nnunetv2_dsvm.ops.dispatch import BACKENDS
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.testing import AUTOCAST_TOLERANCE, TOLERANCE, WrongResult, check_scan, relative_l2

CPU = torch.device("cpu")


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


class OffBy(torch.nn.Module):
    """A network whose logits are larger by a factor than they should be."""

    def __init__(self, network, error):
        super().__init__()
        self.network, self.error = network, error

    def forward(self, image):
        return (1 + self.error) * self.network(image)


class TestYardsticks:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_conventional_core_equals_ours(self, dtype):
        name = str(dtype).removeprefix("torch.")
        case = CoreCase("core", "conventional", 2, 3, 4, dim=16, d_state=4, dtype=name, device="cpu")
        assert correctness.check_core(case, scan=scan_loop) <= AUTOCAST_TOLERANCE[dtype]

    @pytest.mark.parametrize("name", RELATIVES)
    def test_a_conventional_relative_equals_ours(self, name):
        case = NetworkCase("VM-UNet", 1, 64, 64, NetworkSizes(), "float32", "cpu")
        network, image = FamilyCase.of(case, name).relative_network().eval(), torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            composed = conventional_relative(network, scan_loop)(image)
            assert relative_l2(composed, network(image)) < 1e-4

    def test_conventional_network_equals_ours(self):
        sizes = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2}
        network = VMUNet(3, 2, **sizes, scan_backend="reference")
        twin = conventional_network(network, scan_loop)
        assert not any(type(m).__name__ == "VSSBlock" for m in twin.modules())
        assert correctness.check_network(twin, correctness.expected_logits(network), torch.float32, CPU) < 1e-5

    @pytest.mark.parametrize(
        ("size", "plan", "millions"), [((256, 256), (), 33), ((512, 512), (), 46), ((128, 128, 128), halved(5), 31)]
    )
    def test_plain_conv_unet_is_nnunets_size(self, size, plan, millions):
        with torch.device("meta"):
            network = plain_conv_unet.plain_conv_unet(3, 2, size, plan)
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

    @pytest.mark.parametrize(("logits", "loss", "wrong"), [(1.0, 2.0, "loss"), (1.1, 1.0, "logits"), (1.0, 1.0, "")])
    def test_a_compiled_network_with_both_terms_that_differs_from_the_eager_one(self, monkeypatch, logits, loss, wrong):
        def build(case):
            values = (logits, loss) if case.compiled else (1.0, 1.0)
            return Workload(*(lambda value=value: torch.full((2,), value) for value in values), backward=print)

        monkeypatch.setattr(NetworkCase, "build", build)
        case = NetworkCase("PlainConvUNet", 2, 8, 8, NetworkSizes(), "float16", "cpu", compiled=True, both_terms=True)
        with pytest.raises(WrongResult, match=f"of {wrong} ") if wrong else nullcontext():
            assert Checks(choose_settings(device="cpu", quick=True)).network(case) == 0

    @pytest.mark.parametrize(
        ("error", "cost", "right"),
        [
            (5e-5, None, True),
            (0.01, None, False),
            (0.01, 0.006, True),
            (0.01, 0.004, False),
            (0.01, math.inf, False),
            (math.inf, 0.006, False),
            (math.inf, math.inf, False),
        ],
    )
    def test_beyond_the_tolerance_twice_the_error_of_plain_torch_is_right(self, error, cost, right):
        reference = VMUNet(1, 2, dims=(8,), encoder_depths=(1,), decoder_depths=(1,), scan_backend="torch_chunked")
        in_plain_torch = None if cost is None else lambda: OffBy(reference, cost)
        expected = correctness.expected_logits(reference, (8, 8))
        compared = (OffBy(reference, error), expected, torch.float32, CPU, in_plain_torch)
        if right:
            assert correctness.check_network(*compared) == pytest.approx(error, rel=0.1)
            return
        with pytest.raises(WrongResult, match=f"error {error:.1e} of logits") as refused:
            correctness.check_network(*compared)
        assert cost is None or f"twice the {cost:.1e} of the same network in plain PyTorch" in str(refused.value)

    @pytest.mark.parametrize("wrong", [False, True])
    def test_u_mamba_enc_whose_roundings_add_up_in_bf16(self, monkeypatch, wrong):
        """To 15 % with these weights."""
        case = FamilyCase.of(NetworkCase("VM-UNet", 1, 64, 64, NetworkSizes(), "bfloat16", "cpu"), "UMambaEnc")
        network = case.network()
        monkeypatch.setattr(FamilyCase, "network", lambda _: OffBy(network, 0.5) if wrong else network)
        with pytest.raises(WrongResult, match="of the same network in plain PyTorch") if wrong else nullcontext():
            error = Checks(choose_settings(device="cpu", dtype="bfloat16", quick=True)).family(case)
            assert AUTOCAST_TOLERANCE[torch.bfloat16] < error < 0.2

    def test_the_right_logits_of_a_relative_are_computed_once(self, monkeypatch):
        """For the relative and its conventional composition, and again for another relative."""
        expected, of = correctness.expected_logits, []
        monkeypatch.setattr(
            correctness,
            "expected_logits",
            lambda network, size: of.append(type(network).__name__) or expected(network, size),
        )
        monkeypatch.setattr(FamilyCase, "network", FamilyCase.relative_network)  # the kernel of the other needs CUDA
        checks, case = (
            Checks(choose_settings(device="cpu", quick=True)),
            NetworkCase("VM-UNet", 1, 64, 64, NetworkSizes(), "float32", "cpu"),
        )
        for name in ("ASPVMUNet", "LightMUNet"):
            assert all(checks.family(FamilyCase.of(case, name, conventional=c)) < 1e-4 for c in (False, True))
        assert of == ["ASPVMUNet", "LightMUNet"]

    def test_a_result_that_is_not_finite_is_wrong(self):
        assert relative_l2(torch.tensor([1.0, float("nan")]), torch.ones(2)) == float("inf")

    def test_relative_l2(self):
        assert relative_l2(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0])) == pytest.approx(0.08)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_a_right_backend_passes(self, dtype):
        error = check_scan("torch_chunked", ScanShape.of_grid(2, (3, 4), 5, 2), dtype, CPU)
        assert 0 < error <= TOLERANCE[dtype]
