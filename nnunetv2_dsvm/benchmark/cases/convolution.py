"""The depthwise convolution of a block with bias and SiLU, on channels-last images and volumes: ours and torch's."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.benchmark.cases.workload import DTYPES, Workload
from nnunetv2_dsvm.ops.dispatch import fused_backend, fused_operators
from nnunetv2_dsvm.ops.testing import TOLERANCE, compare

ConvolutionImplementation = Literal["torch", "ours"]


@dataclass(frozen=True)
class ConvolutionCase:
    """A kernel of 3 along each axis on `size`, `(batch, *sizes, channels)`, in `dtype`; its weights are fp32."""

    implementation: ConvolutionImplementation
    size: tuple[int, ...]
    dtype: str
    device: str
    counts_weights = False
    wants_kept = False

    def tiny(self) -> "ConvolutionCase":
        return replace(self, size=(1, *[2] * (len(self.size) - 2), self.size[-1]))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, weight, bias and the gradient of the result, on the device; equal for both implementations."""
        generator, channels = torch.Generator().manual_seed(1), self.size[-1]
        kernel = (channels, 1, *[3] * (len(self.size) - 2))
        u, weight, bias, grad = (
            torch.randn(shape, generator=generator).to(self.device)
            for shape in (self.size, kernel, (channels,), self.size)
        )
        return u.to(DTYPES[self.dtype]), weight, bias, grad.to(DTYPES[self.dtype])

    def build(self) -> Workload:
        u, weight, bias, grad = self.tensors()
        if self.implementation == "torch":
            inputs = [t.requires_grad_() for t in (u, weight, bias)]

            def forward() -> Tensor:
                return torch_conv_silu(u, weight.to(u.dtype), bias.to(u.dtype))

            return Workload(
                infer=torch.no_grad()(forward), forward=forward,
                backward=lambda y: torch.autograd.grad(y, inputs, grad),
            )  # fmt: skip
        backend = fused_backend(u.device, u.dtype)
        assert backend is not None  # or there is no such case
        fused = fused_operators(backend)
        return Workload(
            infer=lambda: fused.convolution_forward(u, weight, bias, True),
            forward=lambda: fused.convolution_forward(u, weight, bias, True),
            # The values that it overwrites do not matter for its time.
            backward=lambda _: fused.convolution_backward(grad, u, weight, bias, True, True),
        )


def torch_conv_silu(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The composition, `(batch, *sizes, channels)` to that shape."""
    convolution = F.conv2d if u.ndim == 4 else F.conv3d
    image = u.movedim(-1, 1)
    return F.silu(convolution(image, weight, bias, padding=1, groups=u.shape[-1])).movedim(1, -1)


def check_convolution(case: ConvolutionCase) -> float:
    """The largest relative L2 error of a small case's result and gradients against torch's in float64 on the CPU.

    Raises:
        WrongResult: it is above the tolerance.
    """
    case = replace(case, size=(2, *(3, 5, 4)[: len(case.size) - 2], 24))
    u, weight, bias, grad = case.tensors()
    exact = [t.detach().cpu().double().requires_grad_() for t in (u, weight, bias)]
    y = torch_conv_silu(*exact)
    expected = [y, *torch.autograd.grad(y, exact, grad.cpu().double())]
    work = case.build()
    y = work.forward()
    actual = [y, *work.backward(y)]
    tolerance = TOLERANCE[DTYPES[case.dtype]]
    if case.implementation == "torch" and case.dtype != "float32":
        tolerance *= 5  # weights and the activation's input are rounded to 16 bit
    names = ("output", "gradient of u", "gradient of weight", "gradient of bias")
    return compare(f"convolution, {case.implementation}", names, actual, expected, tolerance)
