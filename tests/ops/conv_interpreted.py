"""Run by test_triton_conv.py in a process of its own, where Triton's interpreter is on: prints one line per check."""

import sys

import torch
import torch.nn.functional as F
from helpers.scan_inputs import relative_error
from nnunetv2_dsvm.ops.conv_silu import conv_silu_backward, conv_silu_forward

from nnunetv2_dsvm.ops import conv_silu
from nnunetv2_dsvm.ops.triton import launch

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
NAMES = ("active", "u", "weight", "bias")


def gradients(grad: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return conv_silu_forward(*inputs), *conv_silu_backward(grad.clone(), *inputs)


def check(batch: int, height: int, width: int, channels: int, dtype: torch.dtype, kernel: int = 3) -> None:
    """Output and gradients against torch's convolution in fp64; a second time, equal bits."""
    u, grad = (torch.randn(batch, height, width, channels).to(dtype) for _ in range(2))
    weight, bias = torch.randn(channels, 1, kernel, kernel), torch.randn(channels)
    got, again = (gradients(grad, u, weight, bias) for _ in range(2))

    exact = [t.double().requires_grad_() for t in (u, weight, bias)]
    image = exact[0].permute(0, 3, 1, 2)
    convolved = F.conv2d(image, exact[1], exact[2], padding=kernel // 2, groups=channels)
    active = F.silu(convolved).permute(0, 2, 3, 1)
    expected = active, *torch.autograd.grad(active, exact, grad.double())
    dtypes = (dtype, dtype, torch.float32, torch.float32)
    for name, ours, same, right, kind in zip(NAMES, got, again, expected, dtypes, strict=True):
        error = relative_error(ours, right)
        ok = error <= TOLERANCE[dtype] and torch.equal(ours, same) and ours.shape == right.shape and ours.dtype == kind
        print(f"{(batch, height, width, channels)} {dtype} {name} {error:.1e} {'ok' if ok else 'WRONG'}", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert launch.interpreted()
    what = sys.argv[1]
    if what == "kernel":
        check(1, 6, 5, 3, torch.float32, kernel=5)
        check(1, 6, 5, 3, torch.float32, kernel=1)
    elif what == "programs":  # as on a GPU that one program per image, or per few rows, would leave idle
        conv_silu._MIN_ROWS = 2
        launch.processors = lambda device: 100
        check(2, 7, 9, 12, torch.float32)
        launch.processors = lambda device: 0
        check(3, 7, 9, 12, torch.float32)
    else:
        dtype = getattr(torch, what)
        for batch, height, width, channels in (
            (1, 1, 1, 3), (3, 1, 7, 12), (1, 5, 1, 40), (3, 7, 9, 3), (1, 7, 9, 192), (3, 5, 4, 1),
        ):  # fmt: skip
            check(batch, height, width, channels, dtype)
