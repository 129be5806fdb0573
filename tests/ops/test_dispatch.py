"""Which backend runs a call; and that a new one is a class and an entry in a dict, and nothing else."""

import json
import logging

import pytest
import torch
from helpers.scan_inputs import NAMES, relative_error, scan_inputs

from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.diagnostics.torch_probe import scan_report
from nnunetv2_dsvm.ops import BACKEND_NAMES, backend_report, dispatch, select_backend, ss2d_scan
from nnunetv2_dsvm.ops.backend import Backend
from nnunetv2_dsvm.ops.backends.reference import reference_scan
from nnunetv2_dsvm.ops.backends.torch_chunked import TorchChunked
from nnunetv2_dsvm.ops.fused_core import uses_core


class Toy(Backend):
    """The plain loop, which counts its calls and saves its x."""

    def __init__(self):
        self.forwards, self.saved = 0, []

    def supports(self, device, dtype, d_state, axes, orders=None):
        return d_state != 3, "a toy, of any number of states but 3"

    def saved_states(self, shape, dtype, like):
        return like.new_empty(shape.batch, shape.length, shape.d_inner)

    def forward(self, inputs, save):
        self.forwards += 1
        return reference_scan(inputs), inputs.x.clone() if save else None

    def backward(self, grad, inputs, saved):
        self.saved.append(saved)
        return TorchChunked().backward(grad, inputs, saved)


@pytest.fixture
def toy(monkeypatch):
    """Registered as the fastest; gone after the test."""
    toy = Toy()
    others = dict(dispatch.BACKENDS)
    dispatch.BACKENDS.clear()
    dispatch.BACKENDS.update({"toy": toy, **others})
    yield toy
    dispatch.BACKENDS.clear()
    dispatch.BACKENDS.update(others)


@pytest.mark.parametrize("backend", ["toy", "auto"])
def test_a_new_backend_scans_and_gets_what_it_saved(toy, backend):
    inputs, grad = scan_inputs(2, 3, 4, 3, 2), torch.randn(2, 12, 3, dtype=torch.float64)
    y, expected = (ss2d_scan(*inputs, height=3, width=4, backend=name) for name in (backend, "reference"))
    assert toy.forwards == 1 and torch.equal(y, expected)
    pairs = zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True)
    for name, (got, right) in zip(NAMES, pairs, strict=True):
        assert relative_error(got, right) <= 1e-12, name
    assert len(toy.saved) == 1 and torch.equal(toy.saved[0], inputs[0])


def test_a_new_backend_keeps_the_rules_of_torch(toy):
    torch.library.opcheck(
        torch.ops.nnunetv2_dsvm.ss2d_scan.default, (*scan_inputs(2, 3, 4, 3, 2), (3, 4), [], "toy", True)
    )


def test_without_fused_operators_a_block_is_composed(toy):
    """Of torch's operators and the scan."""
    assert not uses_core("toy", torch.device("cpu"), torch.float32, 2)
    x = torch.randn(1, 2, 3, 4)
    blocks = {name: VSSBlock(4, d_state=2, scan_backend=name) for name in ("auto", "torch_chunked")}
    blocks["torch_chunked"].load_state_dict(blocks["auto"].state_dict())
    y, expected = (block(x) for block in blocks.values())
    assert toy.forwards == 1 and relative_error(y, expected) <= 1e-6
    y.sum().backward()
    expected.sum().backward()
    assert len(toy.saved) == 1
    for p, q in zip(*(block.parameters() for block in blocks.values()), strict=True):
        assert relative_error(p.grad, q.grad) <= 1e-5


def test_a_new_backend_is_listed_and_refused_with_its_reason(toy):
    assert next(iter(BACKEND_NAMES)) == "toy" and backend_report("cpu", d_state=3)["toy"][0] is False
    assert select_backend("auto", "cpu", d_state=3) == "torch_chunked"
    with pytest.raises(RuntimeError, match="'toy' cannot run on cpu.*of any number of states but 3"):
        select_backend("toy", "cpu", d_state=3)


def test_the_doctor_checks_a_new_backend(toy):
    found = scan_report("cpu")["toy"]
    assert found["supported"] and found["failure"] is None and 0 < found["error"] < 1e-5 and toy.saved


def test_the_benchmark_lists_a_new_backend(toy, tmp_path, monkeypatch):
    """And refuses a name that is not registered, with those that are."""
    file = tmp_path / "numbers.json"
    arguments = ["--device", "cpu", "--suite", "scan", "--quick", "--size", "8", "--d-state", "3", "--json", str(file)]
    assert main(["benchmark", *arguments, "--backends", "toy"]) == 0
    (row,) = json.loads(file.read_text())["results"]
    assert row["implementation"] == "toy" and "any number of states but 3" in row["note"]


def test_auto_on_a_cpu_is_torch_chunked():
    assert select_backend("auto", "cpu", torch.float32) == "torch_chunked"


def test_backend_report_gives_a_reason_for_each():
    report = backend_report("cpu")
    assert list(report) == list(BACKEND_NAMES)
    assert not report["mamba_ssm"][0] and "CUDA" in report["mamba_ssm"][1]
    assert all(reason for _, reason in report.values())


def test_a_backend_asked_for_by_name_is_never_replaced():
    inputs = scan_inputs(1, 2, 2, 2, 2, torch.float32)
    with pytest.raises(RuntimeError, match="mamba_ssm.*cannot run on cpu.*runs on CUDA"):
        ss2d_scan(*inputs, height=2, width=2, backend="mamba_ssm")
    with pytest.raises(ValueError, match="unknown scan backend 'fast'.*torch_chunked"):
        ss2d_scan(*inputs, height=2, width=2, backend="fast")


def test_only_what_would_have_been_faster_is_missed(caplog, monkeypatch):
    monkeypatch.setitem(dispatch.BACKENDS, "triton", Toy())
    dispatch.announced.clear()
    with caplog.at_level(logging.INFO, logger="nnunetv2_dsvm.ops.dispatch"):
        assert select_backend("auto", "cuda") == "triton"
    (record,) = caplog.records
    assert record.levelno == logging.INFO and "mamba_ssm" not in caplog.text


def test_the_choice_is_said_once(caplog):
    dispatch.announced.clear()
    with caplog.at_level(logging.INFO, logger="nnunetv2_dsvm.ops.dispatch"):
        for _ in range(3):
            select_backend("auto", "cpu", torch.float32)
    assert len(caplog.records) == 1
    assert "backend torch_chunked" in caplog.text and "mamba_ssm" in caplog.text
