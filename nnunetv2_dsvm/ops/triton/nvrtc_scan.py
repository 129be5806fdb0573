"""The scan in CUDA C++ in the place of the Triton kernels, where it runs and is not turned off."""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.nvrtc import scan as nvrtc
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.triton.elementwise import sum_blocks
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings
from nnunetv2_dsvm.ops.triton.scan_kernels import DirectionGradients, ScanKernels
from nnunetv2_dsvm.ops.triton.triton_scan import chunk_states


class NVRTCScan(ScanKernels):
    """`ops/nvrtc`; where it cuts images into chunks, Triton's kernels make their first states."""

    states_dtype = torch.bfloat16
    dt_dtype = torch.bfloat16  # whatever dt was

    def supports(self, shape: ScanShape, dtype: torch.dtype, device: torch.device) -> bool:
        """bfloat16, on GPUs where it runs."""
        return nvrtc.supports(device, dtype, shape.d_state, shape.d_inner)[0]

    def interval(self, settings: LaunchSettings) -> int:
        """The kernels' own."""
        return nvrtc.INTERVAL

    def forward(
        self, plan: LaunchPlan, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, saved: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """As `ScanKernels.forward`; `dtype` is bfloat16."""
        shape = plan.shape
        launch = nvrtc.plan("scan_forward", shape.batch, shape.length, shape.d_inner, plan.processors)
        initial_state = None
        if launch.chunks > 1:
            initial_state = chunk_states(
                plan, plan.tile(), launch.chunks, launch.chunk_length, x, delta, A, B, reverse=False
            )
        height, width = shape.sizes
        return nvrtc.scan_forward(launch, height, width, x, delta, A, B, C, initial_state, saved)

    def backward(
        self, plan: LaunchPlan, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
        saved: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor,
    ) -> DirectionGradients:  # fmt: skip
        """As `ScanKernels.backward`."""
        shape = plan.shape
        launch = nvrtc.plan("scan_backward", shape.batch, shape.length, shape.d_inner, plan.processors)
        final_dh = None
        if launch.chunks > 1:
            final_dh = chunk_states(
                plan, plan.tile(), launch.chunks, launch.chunk_length, grad, delta, A, C, reverse=True
            )
        height, width = shape.sizes
        g = nvrtc.scan_backward(
            launch, height, width, grad, x, delta, A, B, C, saved, final_dh, grad_dt, grad_B, grad_C
        )
        if g.parts:
            for parts, out in zip(g.parts, (grad_B, grad_C), strict=True):
                sum_blocks(parts, out)
        return DirectionGradients(g.x, g.A.sum(0).transpose(1, 2), g.dt_bias.sum(0))
