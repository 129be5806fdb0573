"""Run by test_triton_ss2d.py in a process of its own, where Triton's interpreter is on: prints one line per check."""

import sys

import torch
import torch.nn.functional as F
from scan_inputs import NAMES, relative_error, scan_inputs

from nnunetv2_dsvm.architecture.vss_block import VSSBlock
from nnunetv2_dsvm.ops import ss2d_scan, triton_ss2d
from nnunetv2_dsvm.ops.norm import layer_norm

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
triton_ss2d.INTERVAL = 8  # tokens between saved states; small, so that few tokens make several intervals
# batch, height, width, d_inner, d_state
SHAPES = {
    "one_token": (1, 1, 1, 1, 1),
    "odd": (2, 3, 3, 3, 8),
    "even": (1, 4, 4, 8, 8),  # read as packed words, in rows without a step aside
    "three_intervals": (1, 4, 5, 3, 16),
    "wide_state": (1, 2, 3, 2, 64),
}


def report(name: str, error: float, tolerance: float) -> None:
    print(f"{name} {error:.1e} {'ok' if error <= tolerance else 'WRONG'}", flush=True)


def check_scan(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = scan_inputs(*shape, dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn(inputs[0].shape, dtype=torch.float64).to(dtype)
    y = ss2d_scan(*inputs, height=shape[1], width=shape[2], backend="triton")
    expected = ss2d_scan(*exact, height=shape[1], width=shape[2], backend="reference")
    report("y", relative_error(y, expected), TOLERANCE[dtype])
    grads = torch.autograd.grad(y, inputs, grad)
    for name, got, right in zip(NAMES, grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        report(name, relative_error(got, right), TOLERANCE[dtype])


def check_module() -> None:
    """The VSS block on the fused operators against itself on the reference scan in fp64."""
    module = VSSBlock(4, d_state=2, scan_backend="triton")
    exact = VSSBlock(4, d_state=2, scan_backend="reference").double()
    exact.load_state_dict(module.state_dict())
    x = torch.randn(1, 3, 4, 4)
    y, expected = module(x), exact(x.double())
    report("module", relative_error(y, expected), 1e-5)
    y.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(module.named_parameters(), exact.parameters(), strict=True):
        report(name, relative_error(p.grad, q.grad), 1e-5)


def check_norm(channels: int) -> None:
    """A multiple of 8 channels is loaded in units of 8."""
    wide = torch.randn(7, 2 * channels)
    inputs = [torch.randn(7, channels) * 3 + 1, torch.randn(channels), torch.randn(channels), wide[:, channels:]]
    inputs = [t.requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y = layer_norm(*inputs[:3], 1e-5, gate=inputs[3])
    expected = F.layer_norm(exact[0], (channels,), exact[1], exact[2], 1e-5) * F.silu(exact[3])
    report("norm", relative_error(y, expected), 1e-5)
    grad = torch.randn(7, channels)
    grads = torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, exact, grad.double())
    for got, right in zip(*grads, strict=True):
        report("norm gradient", relative_error(got, right), 1e-5)


if __name__ == "__main__":
    torch.manual_seed(0)
    assert triton_ss2d.interpreted()
    what = sys.argv[1]
    if what == "chunks":  # as on a GPU with so many processors that L must be cut
        triton_ss2d._FULL = 1000
        check_scan(SHAPES["three_intervals"], torch.float32)
    elif what in SHAPES:
        check_scan(SHAPES[what], getattr(torch, sys.argv[2]))
    elif what == "norm":
        for channels in (6, 24):
            check_norm(channels)
    else:
        check_module()
