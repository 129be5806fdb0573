"""The scan by itself: one call of `selective_scan` with one backend."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nnunetv2_dsvm.benchmark.cases.workload import DTYPES, Workload
from nnunetv2_dsvm.ops import selective_scan
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.testing import random_inputs


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
        return replace(self, shape=self.shape._replace(batch=1, sizes=(2,) * len(self.shape.sizes)))

    def build(self) -> Workload:
        shape, device = self.shape, torch.device(self.device)
        inputs = [t.requires_grad_() for t in random_inputs(shape, DTYPES[self.dtype], device)]
        grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])

        def forward() -> Tensor:
            x, dt, A, B, C, D, dt_bias = inputs
            return selective_scan(x, dt, A, B, C, D, dt_bias, sizes=shape.sizes, backend=self.backend)

        return Workload(
            infer=torch.no_grad()(forward),
            forward=forward,
            backward=lambda y: torch.autograd.grad(y, inputs, grad),
        )
