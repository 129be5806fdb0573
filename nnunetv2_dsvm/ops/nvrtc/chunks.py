"""What enters the chunks into which images are cut: launches of `scan_chunks.cu`."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.nvrtc.arguments import EntryArguments, addresses, arguments
from nnunetv2_dsvm.ops.nvrtc.launch import kernel
from nnunetv2_dsvm.ops.nvrtc.launch_plan import INTERVAL, STATES, WARP_CHANNELS, LaunchPlan, macros, shared_bytes
from nnunetv2_dsvm.ops.scan_inputs import token_strides


def entering_states(
    launch: LaunchPlan, grid: tuple[int, ...], v: Tensor, delta: Tensor, A: Tensor, W: Tensor, bias: Tensor,
    raw: bool, of_gradient: bool,
) -> Tensor | None:  # fmt: skip
    """h at each chunk's start, or the gradient of h that enters it from behind, fp32 `(batch, K, chunks, N, channels)`.

    Args:
        launch, grid: of the kernel that gets it; None where its images are one chunk.
        v, W: x and B, of the gradient those of y and C, aligned, in bfloat16, x and B also in float16.
        delta, A, bias, raw: as in `scan.scan_forward`.
        of_gradient: which.
    """
    if launch.chunks == 1:
        return None
    batch, length, channels = v.shape
    directions, warps = A.shape[0], launch.chunk_warps
    entering = torch.empty(batch, directions, launch.chunks, STATES, channels, dtype=torch.float32, device=v.device)
    ends, time = torch.empty_like(entering), torch.empty_like(entering[:, :, :, 0])
    walks = 0 if len(grid) == 2 else directions
    chosen = macros("scan_chunks", warps, raw, walks, of_gradient, v.dtype == torch.float16)
    given = arguments("scan_chunks", len(grid))(
        *addresses(v, delta, W, A, bias, ends, time), *token_strides(v, delta, W), W.stride(2),
        length, channels, grid, launch.chunks, launch.chunk_intervals, math.ceil(length / INTERVAL),
    )  # fmt: skip
    make_ends = kernel("scan_chunks", chosen, v.device, shared_bytes("scan_chunks", warps))
    blocks = math.ceil(channels / (warps * WARP_CHANNELS))
    make_ends.launch((blocks, directions * (launch.chunks - 1), batch), 32 * warps, given)
    enter = kernel("scan_chunks", chosen, v.device, 0, "chunk_entries")
    blocks = math.ceil(STATES * channels / (32 * warps))
    given = EntryArguments(*addresses(ends, time, A, entering), channels, launch.chunks)
    enter.launch((blocks, directions, batch), 32 * warps, given)
    return entering
