"""No relative's step makes a tensor of Python's numbers or on the CPU, which a CUDA graph cannot record: seen on a CPU.

With Triton's backend, whose kernels do nothing here: what is looked at is the code of torch around them.
"""

import pytest
import torch
from helpers.tiny_relatives import TINY
from torch.profiler import ProfilerActivity, profile

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.ops.triton import runtime

triton = pytest.importorskip("triton", reason="Triton has no build for this platform")

# A tensor of a list or a number, by `torch.tensor` or as an index; and what the CPU waits for a GPU's value for.
CROSSING = {"aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}
ON_THE_CPU_BY_DEFAULT = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros")


@pytest.fixture
def without_device(monkeypatch):
    """The functions of torch that were called for a new tensor and not told where."""
    called: list[str] = []
    for name in ON_THE_CPU_BY_DEFAULT:
        make = getattr(torch, name)

        def made(*arguments, _name=name, _make=make, **options):
            if options.get("device") is None:
                called.append(_name)
            return _make(*arguments, **options)

        monkeypatch.setattr(torch, name, made)
    return called


def crossings(step) -> list[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    return [event.name for event in profiled.events() if event.name in CROSSING]


@pytest.mark.parametrize("name", RELATIVES)
def test_a_step_of_training_makes_no_tensor_on_the_cpu(name, monkeypatch, without_device):
    monkeypatch.setattr(runtime, "interpreted", lambda: True)  # so that the backend takes tensors of the CPU
    monkeypatch.setattr(triton.runtime.JITFunction, "run", lambda *arguments, **options: None)
    network = RELATIVES[name].network(1, 2, deep_supervision=True, scan_backend="triton", **TINY[name]).train()
    image = torch.randn(2, 1, 64, 64)

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(image)
        sum(output.float().square().mean() for output in outputs).backward()

    step()  # as before a recording: what is kept for a device is made now
    without_device.clear()
    assert crossings(step) == [] and without_device == []


@pytest.mark.parametrize(
    "crosses",
    [lambda x: x * torch.tensor([1.0, 2.0], device=x.device), lambda x: x[[1, 0]], torch.Tensor.item,
     lambda x: torch.unravel_index(x.long(), (1, 2))],
    ids=["constant", "index", "number", "unravel_index"],
)  # fmt: skip
def test_what_crosses_is_seen(crosses):
    x = torch.arange(2.0)
    assert crossings(lambda: crosses(x if crosses is not torch.Tensor.item else x[0]))
