"""Fused kernels on GPUs, in Triton and, where they run, in CUDA C++; see `ops/triton`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backend import Backend, CoreGradients, FusedOperators, Orders
from nnunetv2_dsvm.ops.nvrtc import scan as nvrtc_scan
from nnunetv2_dsvm.ops.resampling import Resampling
from nnunetv2_dsvm.ops.scan_inputs import ScanGradients, ScanInputs, ScanShape
from nnunetv2_dsvm.ops.triton import (
    average_pool,
    batch_norm,
    convolution,
    core,
    elementwise,
    layer_norm,
    resized_mse,
    runtime,
    scan,
)
from nnunetv2_dsvm.ops.triton.launch_plan import MAX_AXES, MAX_D_STATE, LaunchSettings


class TritonOperators(FusedOperators):
    """What Triton's kernels run besides the scan alone; the docstrings are the contract's."""

    def __init__(self, settings: LaunchSettings) -> None:
        self.settings = settings

    def core_forward(
        self, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, shape: ScanShape, save: bool
    ) -> tuple[Tensor, Tensor | None]:
        return core.core_forward(x, weight, A, D, dt_bias, shape, save, self.settings)

    def core_norm_forward(
        self, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, norm_weight: Tensor, norm_bias: Tensor,
        gate: Tensor, shape: ScanShape, save: bool, eps: float, dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        return core.core_norm_forward(
            x, weight, A, D, dt_bias, norm_weight, norm_bias, gate, shape, save, eps, dtype, self.settings
        )

    def core_backward(
        self, grad: Tensor, saved: Tensor, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
        shape: ScanShape,
    ) -> CoreGradients:  # fmt: skip
        return core.core_backward(grad, saved, x, weight, A, D, dt_bias, shape, self.settings)

    def layer_norm_forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, dtype: torch.dtype,
        resampling: Resampling | None = None,
    ) -> Tensor:  # fmt: skip
        return layer_norm.norm_forward(x, weight, bias, gate, eps, dtype, resampling)

    def layer_norm_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float,
        resampling: Resampling | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        return layer_norm.norm_backward(grad, x, weight, bias, gate, eps, resampling, self.settings)

    def convolution_forward(self, u: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
        return convolution.convolution_forward(u, weight, bias, silu, self.settings)

    def convolution_backward(
        self, grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, own: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return convolution.convolution_backward(grad, u, weight, bias, silu, own, self.settings)

    def batch_statistics(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return batch_norm.batch_statistics(u, self.settings)

    def normalised_convolution_forward(
        self, u: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
        bias: Tensor,
    ) -> Tensor:  # fmt: skip
        return batch_norm.normalised_forward(u, mean, var, norm_weight, norm_bias, eps, weight, bias, self.settings)

    def normalised_convolution_backward(
        self, grad: Tensor, u: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
        weight: Tensor, bias: Tensor, batch: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        return batch_norm.normalised_backward(
            grad, u, mean, var, norm_weight, norm_bias, eps, weight, bias, batch, self.settings
        )

    def scaled_sum(self, x: Tensor | None, branch: Tensor, scale: Tensor) -> Tensor:
        return elementwise.scaled_sum(x, branch, scale)

    def resized_mse(self, student: Tensor, teacher: Tensor, upstream: Tensor | None) -> Tensor:
        return resized_mse.resized_mse(student, teacher, upstream)

    def resized_mse_ahead(
        self, students: Sequence[Tensor], teachers: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        return resized_mse.resized_mse_ahead(students, teachers, gradients)

    def average_pool(self, features: Tensor, window: Sequence[int]) -> Tensor:
        return average_pool.average_pool(features, window)

    def average_pool_backward(self, grad: Tensor, window: Sequence[int]) -> Tensor:
        return average_pool.average_pool_backward(grad, window)


class Triton(Backend):
    """One x for all directions, sparse states kept for backward, the same bits in every run.

    Args:
        settings: what launches aim at.
    """

    def __init__(self, settings: LaunchSettings | None = None) -> None:
        self.settings = settings or LaunchSettings()
        self.fused = TritonOperators(self.settings)

    def supports(
        self, device: torch.device, dtype: torch.dtype, d_state: int, axes: int, orders: Orders = None
    ) -> tuple[bool, str]:
        """Grids of up to three axes on GPUs that Triton knows, fp32 or 16 bit, d_state up to 64."""
        if problem := runtime.device_problem(device):
            return False, problem
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return False, f"the Triton kernels take float32, float16 or bfloat16, not {dtype}"
        if d_state > MAX_D_STATE:
            return False, f"the Triton kernels take d_state up to {MAX_D_STATE}, not {d_state}"
        if axes > MAX_AXES:
            return False, f"the Triton kernels take grids of up to {MAX_AXES} axes, not of {axes}"
        return True, f"fused Triton kernels{nvrtc_scan.in_words(device)}"

    def saved_states(self, shape: ScanShape, dtype: torch.dtype, like: Tensor) -> Tensor:
        """`(batch, K, intervals, N, d_inner)`."""
        return scan.saved_states(shape, dtype, self.settings, like)

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor | None]:
        """In fp32 arithmetic; saves states every 64 tokens."""
        return scan.forward(inputs, save, self.settings)

    def backward(self, grad: Tensor, inputs: ScanInputs, saved: Tensor | None) -> ScanGradients:
        """From the saved states, interval by interval."""
        return scan.backward(grad, inputs, saved, self.settings)
