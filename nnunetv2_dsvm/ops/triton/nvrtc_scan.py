"""The scan in CUDA C++ in the place of the Triton kernels, where it runs and is not turned off."""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.nvrtc import launch_plan as nvrtc_plan
from nnunetv2_dsvm.ops.nvrtc import scan as nvrtc
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings
from nnunetv2_dsvm.ops.triton.scan_kernels import DirectionGradients, ScanKernels
from nnunetv2_dsvm.ops.triton.sums import sum_blocks


def _launch(kernel: str, plan: LaunchPlan) -> nvrtc_plan.LaunchPlan:
    shape = plan.shape
    return nvrtc_plan.plan(kernel, shape.batch, shape.length, shape.d_inner, plan.processors, shape.directions)


class NVRTCScan(ScanKernels):
    """`ops/nvrtc`."""

    states_dtype = torch.bfloat16
    dt_dtype = torch.bfloat16  # whatever dt was
    takes_dt = True

    def supports(self, shape: ScanShape, dtype: torch.dtype, device: torch.device, save: bool) -> bool:
        """What `ops/nvrtc` takes, in orders without a step, on GPUs where it runs."""
        if shape.step > 1 or len(shape.sizes) > nvrtc_plan.MAX_AXES or shape.directions > nvrtc_plan.MAX_WALKS:
            return False
        return nvrtc.supports(device, dtype, shape.d_state, shape.d_inner, save)[0]

    def interval(self, settings: LaunchSettings) -> int:
        """The kernels' own."""
        return nvrtc_plan.INTERVAL

    def forward(
        self, plan: LaunchPlan, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
        saved: Tensor | None, dtype: torch.dtype, raw: bool,
    ) -> Tensor:  # fmt: skip
        """As `ScanKernels.forward`; `dtype` is x's `projections.output_dtype`."""
        launch = _launch("scan_forward", plan)
        grid = nvrtc_plan.grid_numbers(plan.shape.sizes, plan.shape.orders)
        return nvrtc.scan_forward(launch, grid, x, delta, A, B, C, dt_bias, raw, saved)

    def backward(
        self, plan: LaunchPlan, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
        dt_bias: Tensor, saved: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor, raw: bool,
    ) -> DirectionGradients:  # fmt: skip
        """As `ScanKernels.backward`."""
        launch = _launch("scan_backward", plan)
        grid = nvrtc_plan.grid_numbers(plan.shape.sizes, plan.shape.orders)
        g = nvrtc.scan_backward(launch, grid, grad, x, delta, A, B, C, dt_bias, saved, grad_dt, grad_B, grad_C)
        if g.parts:
            sum_blocks(*g.parts, grad_B, grad_C)
        return DirectionGradients(g.x, g.A, g.dt_bias)
