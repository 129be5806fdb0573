"""The SS2D core (from the convolution's output to the merged sum, projections included) and the block around it."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nnunetv2_dsvm.architecture.blocks.vss_block import SS2D, VSSBlock
from nnunetv2_dsvm.benchmark.cases.conventional import ConventionalSS2D, ConventionalVSSBlock, SequenceScan, kernel_scan
from nnunetv2_dsvm.benchmark.cases.workload import DTYPES, Workload, autocast

Part = Literal["core", "block"]
CoreImplementation = Literal["ours", "conventional"]
CORE_PARAMETERS = ("x_proj", "dt_proj", "dt_bias", "A_log", "D")


def run_core(ss2d: SS2D | ConventionalSS2D, x: Tensor) -> Tensor:
    """The core of either implementation: `(B, *sizes, d_inner)` to the same shape; the conventional one is of images.

    The conventional one works channels first, so its x must be a permuted channels-first tensor to cost no copy.
    """
    if isinstance(ss2d, ConventionalSS2D):
        return ss2d.core(x.permute(0, 3, 1, 2))
    return ss2d.scan(x)


def seeded_block(dim: int, d_state: int, scan_backend: str, axes: int = 2) -> VSSBlock:
    """A block of ours whose weights depend on its sizes only; on the CPU, fp32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VSSBlock(dim, d_state, scan_backend=scan_backend, axes=axes)


@dataclass(frozen=True)
class CoreCase:
    """The core or the block of a stage with `height` x `width` tokens of `dim` channels, under AMP for 16-bit types.

    Of volumes, which have a `depth`, there is ours only.
    """

    part: Part
    implementation: CoreImplementation
    batch: int
    height: int
    width: int
    dim: int
    d_state: int
    dtype: str
    device: str
    scan_backend: str = "auto"
    depth: int | None = None
    counts_weights = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """Height and width, of volumes with the depth before them."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    @property
    def wants_kept(self) -> bool:
        return self.part == "block"

    def tiny(self) -> "CoreCase":
        return replace(self, batch=1, height=2, width=2, depth=self.depth and 2)

    def build(self, scan: SequenceScan = kernel_scan) -> Workload:
        device, dtype = torch.device(self.device), DTYPES[self.dtype]
        ours = seeded_block(self.dim, self.d_state, self.scan_backend, len(self.tokens)).to(device)
        block = ConventionalVSSBlock.like(ours, scan) if self.implementation == "conventional" else ours
        generator = torch.Generator().manual_seed(1)
        size = (self.batch, *self.tokens, self.dim * (2 if self.part == "core" else 1))
        x = torch.randn(size, generator=generator).to(device)
        if self.part == "core":
            x = x.to(dtype)  # what the convolution returns under autocast
            if self.implementation == "conventional":
                x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        x.requires_grad_()
        weights = [getattr(block.ss2d, n) for n in CORE_PARAMETERS] if self.part == "core" else [*block.parameters()]

        def forward() -> Tensor:
            with autocast(device, dtype):
                return run_core(block.ss2d, x) if self.part == "core" else block(x)

        grad = torch.randn(size, generator=generator).to(device)
        return Workload(
            infer=torch.no_grad()(forward),
            forward=forward,
            backward=lambda y: torch.autograd.grad(y, [x, *weights], grad.to(y.dtype)),
            held=(x, *block.parameters()),
        )
