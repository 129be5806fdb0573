"""The selective scan in CUDA C++: which calls it takes, and its launches."""

import ctypes
import math
import os
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.nvrtc.arguments import addresses, aligned, all_aligned, arguments
from nnunetv2_dsvm.ops.nvrtc.chunks import entering_states
from nnunetv2_dsvm.ops.nvrtc.compile import CompileError, nvrtc_problem, nvrtc_version
from nnunetv2_dsvm.ops.nvrtc.launch import Kernel, kernel
from nnunetv2_dsvm.ops.nvrtc.launch_plan import (
    BLOCK_WARPS,
    INTERVAL,
    RESIDENT,
    STATES,
    LaunchPlan,
    macros,
    shared_bytes,
)
from nnunetv2_dsvm.ops.projections import output_dtype
from nnunetv2_dsvm.ops.scan_inputs import token_strides

VARIABLE = "NNUNETV2_DSVM_NVRTC"
_MIN_CAPABILITY = (9, 0)  # its instructions Ampere has, too, but less shared memory
_MEASURED = (9, 0)


def load_kernel(
    name: str, device: torch.device, warps: int, raw: bool = False, walks: int = 0, half: bool = False
) -> Kernel:
    return kernel(name, macros(name, warps, raw, walks, half=half), device, shared_bytes(name, warps))


def device_problem(device: torch.device) -> str:
    """Why the kernels are not used on this device, or an empty string."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "0":
        return f"{VARIABLE}=0 turns it off"
    if device.type != "cuda" or torch.version.hip is not None:
        return f"it runs on NVIDIA GPUs, not on {'AMD GPUs' if torch.version.hip else device.type}"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    index = torch.cuda.current_device() if device.index is None else device.index
    capability = torch.cuda.get_device_capability(index)
    if capability > _MEASURED and wanted != "1":
        found = ".".join(map(str, capability))
        return f"it was not measured on compute capability {found}; {VARIABLE}=1 uses it there"
    return gpu_problem(index)


@lru_cache(maxsize=16)
def gpu_problem(index: int) -> str:
    """Of the GPU with this index; compiles and loads the kernels, so that nothing is left to fail in a training."""
    capability = torch.cuda.get_device_capability(index)
    if capability < _MIN_CAPABILITY:
        return f"it needs compute capability 9.0, this GPU has {capability[0]}.{capability[1]}"
    if problem := nvrtc_problem():
        return problem
    try:
        with torch.cuda.device(index):
            for name in RESIDENT:
                load_kernel(name, torch.device("cuda", index), max(BLOCK_WARPS))
    except (CompileError, OSError, RuntimeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def supports(device: torch.device, dtype: torch.dtype, d_state: int, channels: int, save: bool) -> tuple[bool, str]:
    """bfloat16, or float16 where nothing is saved, on Hopper or newer, 16 states, a multiple of 8 channels."""
    if dtype != torch.bfloat16 and (save or dtype != torch.float16):  # they would lose digits to states in bfloat16
        return False, f"it takes bfloat16, or float16 without a backward, not {dtype}{' with one' * save}"
    if d_state != STATES:
        return False, f"it takes d_state {STATES}, not {d_state}"
    if channels % 8:
        return False, f"it takes a multiple of 8 channels, not {channels}"
    problem = device_problem(device)
    return not problem, problem or f"CUDA C++ by NVRTC {'.'.join(map(str, nvrtc_version()))}"


def in_words(device: torch.device) -> str:
    """For users, after the name of the Triton kernels, whether these take their place on a GPU, and why not."""
    if device.type != "cuda" or torch.version.hip is not None:
        return ""
    problem = device_problem(device)
    return (
        f"; CUDA C++ is not used: {problem}"
        if problem
        else "; CUDA C++ by NVRTC in bfloat16, and in float16 without gradients"
    )


def _launch(
    name: str, launch: LaunchPlan, grid: tuple[int, ...], x: Tensor, delta: Tensor, raw: bool, given: ctypes.Structure
) -> None:
    """On the GPU of `delta`, which is dt if `raw`."""
    batch, _, directions, _ = delta.shape
    walks = 0 if len(grid) == 2 else directions
    chosen = load_kernel(name, delta.device, launch.warps, raw, walks, x.dtype == torch.float16)
    chosen.launch((launch.blocks, directions * launch.chunks, batch), 32 * launch.warps, given)


def scan_forward(
    launch: LaunchPlan, grid: tuple[int, ...], x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    bias: Tensor, raw: bool, saved_states: Tensor | None,
) -> Tensor:  # fmt: skip
    """y of each direction without the skip, `(batch, L, K, channels)`, in `projections.output_dtype`.

    Args:
        launch: of `launch_plan.plan`.
        grid: `launch_plan.grid_numbers`.
        x, delta, A, B, C: laid out as `ScanKernels.forward` takes them; x, B and C all in bfloat16 or all in float16.
        bias: of dt, contiguous, fp32.
        raw: there is dt, in the type of x, in place of delta in float16.
        saved_states: gets h before every `INTERVAL`-th token, `(batch, K, intervals, N, channels)`, bf16; may be None.
    """
    x, delta, B, C = all_aligned(x, delta, B, C)
    batch, length, channels = x.shape
    directions = A.shape[0]
    initial_state = entering_states(launch, grid, x, delta, A, B, bias, raw, of_gradient=False)
    y = torch.empty(batch, length, directions, channels, dtype=output_dtype(x.dtype), device=x.device)
    given = arguments("scan_forward", len(grid))(
        *addresses(x, delta, B, C, A, initial_state, bias, y, saved_states),
        *token_strides(x, delta, B), B.stride(2),
        length, channels, grid, launch.chunks, launch.chunk_intervals, math.ceil(length / INTERVAL),
    )  # fmt: skip
    _launch("scan_forward", launch, grid, x, delta, raw, given)
    return y


class Gradients(NamedTuple):
    x: Tensor  # of each direction, (batch, L, K, channels), bfloat16
    A: Tensor  # (batch * chunks, K, N, channels), to be summed over the first
    dt_bias: Tensor  # (batch * chunks, K, channels), likewise
    parts: tuple[Tensor, Tensor] | None  # of B and C, (blocks, batch, L, K, N), where they are still to be summed


def scan_backward(
    launch: LaunchPlan, grid: tuple[int, ...], grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    bias: Tensor, saved_states: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor,
) -> Gradients:  # fmt: skip
    """Gradients of the scan without the skip, of tensors laid out as `ScanKernels.backward` takes them.

    Args:
        launch: of `launch_plan.plan`.
        grid: `launch_plan.grid_numbers`.
        delta: in float16, or in its place dt in bfloat16.
        bias: as in `scan_forward`.
        saved_states: h before every `INTERVAL`-th token, `(batch, K, intervals, N, channels)`, bfloat16.
        grad_dt, grad_B, grad_C: written; the last two only where there is one block of channels.
    """
    grad = aligned(grad)
    x, delta, B, C = all_aligned(x, delta, B, C)
    batch, length, channels = x.shape
    directions, sequences, raw = A.shape[0], batch * launch.chunks, delta.dtype == torch.bfloat16
    final_dh = entering_states(launch, grid, grad, delta, A, C, bias, raw, of_gradient=True)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    gx = empty(batch, length, directions, channels, dtype=x.dtype)
    ga = empty(sequences, directions, STATES, channels)
    gbias = empty(sequences, directions, channels)
    parts = None
    if launch.blocks > 1:
        shape = launch.blocks, batch, length, directions, STATES
        parts = empty(*shape), empty(*shape)
    gb, gc = parts or (grad_B, grad_C)
    given = arguments("scan_backward", len(grid))(
        *addresses(grad, x, delta, B, C, saved_states, A, final_dh, bias, gx, grad_dt, gb, gc, ga, gbias),
        *token_strides(grad, x, delta, B), B.stride(2), *token_strides(grad_dt),
        *token_strides(grad_B), grad_B.stride(2),
        length, channels, grid, launch.chunks, launch.chunk_intervals, saved_states.shape[2], batch,
    )  # fmt: skip
    _launch("scan_backward", launch, grid, x, delta, raw, given)
    return Gradients(gx, ga, gbias, parts)
