"""The scan by itself: one call of `ss2d_scan` with one backend."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nnunetv2_dsvm.benchmark.cases.workload import DTYPES, Workload
from nnunetv2_dsvm.ops import ss2d_scan

NUM_DIRECTIONS = 4
INPUT_NAMES = ("x", "dt", "A", "B", "C", "D", "dt_bias")


@dataclass(frozen=True)
class ScanShape:
    """Sizes of a call: `height` x `width` tokens of `d_inner` channels with `d_state` states each."""

    batch: int
    height: int
    width: int
    d_inner: int
    d_state: int = 16

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.height}×{self.width} tokens, d_inner {self.d_inner}, N {self.d_state}"


def random_inputs(shape: ScanShape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> tuple[Tensor, ...]:
    """x, dt, A, B, C, D, dt_bias as `ss2d_scan` takes them, distributed as in a network at its initialisation.

    A, D and dt_bias are float32 for the 16-bit types. Drawn on the CPU, so that every device gets the same numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = (shape.batch, shape.height * shape.width)
    channels = (NUM_DIRECTIONS, shape.d_inner)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    step = torch.exp(torch.empty(channels).uniform_(-6.9, -2.3, generator=generator))  # 1e-3 … 1e-1
    decay_rates = torch.arange(1, shape.d_state + 1) * torch.exp(0.1 * normal(*channels, shape.d_state))
    per_token = (
        normal(*tokens, shape.d_inner),
        0.5 * normal(*tokens, NUM_DIRECTIONS, shape.d_inner),
        normal(*tokens, NUM_DIRECTIONS, shape.d_state),
        normal(*tokens, NUM_DIRECTIONS, shape.d_state),
    )
    parameters = (-decay_rates, 1 + 0.1 * normal(*channels), torch.log(torch.expm1(step)))
    wide = torch.promote_types(dtype, torch.float32)
    x, dt, B, C = (t.to(device, dtype) for t in per_token)
    A, D, dt_bias = (t.to(device, wide) for t in parameters)
    return x, dt, A, B, C, D, dt_bias


@dataclass(frozen=True)
class ScanCase:
    """One backend on one shape; `dtype` is that of x, dt, B and C."""

    backend: str
    shape: ScanShape
    dtype: str
    device: str
    counts_weights = False
    wants_kept = False

    def tiny(self) -> "ScanCase":
        return replace(self, shape=replace(self.shape, batch=1, height=2, width=2))

    def build(self) -> Workload:
        shape, device = self.shape, torch.device(self.device)
        inputs = [t.requires_grad_() for t in random_inputs(shape, DTYPES[self.dtype], device)]
        grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])

        def forward() -> Tensor:
            return ss2d_scan(*inputs, height=shape.height, width=shape.width, backend=self.backend)

        return Workload(
            infer=torch.no_grad()(forward),
            forward=forward,
            backward=lambda y: torch.autograd.grad(y, inputs, grad),
        )
