"""The scan in CUDA C++ in the place of the Triton kernels, where it runs and is not turned off."""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.nvrtc import launch_plan as nvrtc_plan
from nnunetv2_dsvm.ops.nvrtc import scan as nvrtc
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings
from nnunetv2_dsvm.ops.triton.scan_kernels import DirectionGradients, ScanKernels
from nnunetv2_dsvm.ops.triton.sums import sum_blocks
from nnunetv2_dsvm.ops.triton.triton_scan import chunk_states


def _launch(kernel: str, plan: LaunchPlan) -> nvrtc_plan.LaunchPlan:
    shape = plan.shape
    return nvrtc_plan.plan(kernel, shape.batch, shape.length, shape.d_inner, plan.processors, shape.directions)


class NVRTCScan(ScanKernels):
    """`ops/nvrtc`; where it cuts images into chunks, Triton's kernels make their first states."""

    states_dtype = torch.bfloat16
    dt_dtype = torch.bfloat16  # whatever dt was

    def supports(self, shape: ScanShape, dtype: torch.dtype, device: torch.device) -> bool:
        """bfloat16 and images in their four directions, on GPUs where it runs; other grids if asked for."""
        image = len(shape.sizes) == 2 and shape.orders is None
        if not image and (
            shape.step > 1 or len(shape.sizes) > nvrtc_plan.MAX_AXES or shape.directions > nvrtc_plan.MAX_WALKS
        ):
            return False
        return nvrtc.supports(device, dtype, shape.d_state, shape.d_inner, image)[0]

    def interval(self, settings: LaunchSettings) -> int:
        """The kernels' own."""
        return nvrtc_plan.INTERVAL

    def takes_dt(self, plan: LaunchPlan, backward: bool) -> bool:
        """In one chunk: the kernels that make the chunks' first states take delta."""
        return _launch("scan_backward" if backward else "scan_forward", plan).chunks == 1

    def forward(
        self, plan: LaunchPlan, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
        saved: Tensor | None, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """As `ScanKernels.forward`; `dtype` is bfloat16."""
        launch = _launch("scan_forward", plan)
        initial_state = None
        if launch.chunks > 1:
            initial_state = chunk_states(
                plan, plan.tile(), launch.chunks, launch.chunk_length, x, delta, A, B, reverse=False
            )
        grid = nvrtc_plan.grid_numbers(plan.shape.sizes, plan.shape.orders)
        return nvrtc.scan_forward(launch, grid, x, delta, A, B, C, dt_bias, initial_state, saved)

    def backward(
        self, plan: LaunchPlan, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
        dt_bias: Tensor, saved: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor,
    ) -> DirectionGradients:  # fmt: skip
        """As `ScanKernels.backward`."""
        launch = _launch("scan_backward", plan)
        final_dh = None
        if launch.chunks > 1:
            final_dh = chunk_states(
                plan, plan.tile(), launch.chunks, launch.chunk_length, grad, delta, A, C, reverse=True
            )
        grid = nvrtc_plan.grid_numbers(plan.shape.sizes, plan.shape.orders)
        g = nvrtc.scan_backward(
            launch, grid, grad, x, delta, A, B, C, dt_bias, saved, final_dh, grad_dt, grad_B, grad_C
        )
        if g.parts:
            sum_blocks(*g.parts, grad_B, grad_C)
        return DirectionGradients(g.x, g.A, g.dt_bias)
