"""The four-direction selective scan in CUDA C++: which calls it takes, its launch plans and its launches."""

import ctypes
import math
import os
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.nvrtc.compile import CompileError, nvrtc_problem, nvrtc_version
from nnunetv2_dsvm.ops.nvrtc.launch import Kernel, kernel
from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS

VARIABLE = "NNUNETV2_DSVM_NVRTC"
INTERVAL = 32  # tokens between saved states in bfloat16: as many bytes as the Triton kernels' fp32 every 64 tokens
STATES = 16
WARP_CHANNELS = 16
_MIN_CAPABILITY = (9, 0)  # its instructions Ampere has, too, but less shared memory
_MEASURED = (9, 0)
_RESIDENT = {"scan_forward": 16, "scan_backward": 12}  # warps of a multiprocessor, by registers
_BLOCK_WARPS = (12, 6, 4, 3, 2, 1)


class LaunchPlan(NamedTuple):
    """How channels and tokens are dealt to blocks of threads."""

    warps: int  # of a block, 16 channels each
    blocks: int  # of channels
    chunks: int  # of an image's tokens
    chunk_intervals: int

    @property
    def chunk_length(self) -> int:
        """Tokens."""
        return self.chunk_intervals * INTERVAL


def shared_bytes(name: str, warps: int) -> int:
    """Shared memory of a block of the kernel `name`, as `Block` in its source."""
    pitch = 4 * (8 * warps + (0 if warps % 2 else 8))
    if name == "scan_forward":
        return 4 * INTERVAL * pitch + 20480 + 2048 + warps * 768 + 4 * 4 * INTERVAL
    return (6 * INTERVAL + 2 * STATES) * pitch + 20480 + warps * (4096 + 1280 + 2048) + 4 * 4 * INTERVAL


@lru_cache(maxsize=256)
def plan(name: str, batch: int, length: int, channels: int, processors: int) -> LaunchPlan:
    """The launch of the kernel `name` that should take the least time.

    Blocks run in waves of as many as the multiprocessors hold. A wave takes a time in proportion to its tokens, less
    where the last one leaves multiprocessors with fewer warps. Chunks cost a pass more over the tokens.
    """
    total, intervals = math.ceil(channels / WARP_CHANNELS), math.ceil(length / INTERVAL)

    def time(warps: int, chunks: int) -> float:
        resident = _RESIDENT[name] // warps
        blocks = batch * NUM_DIRECTIONS * math.ceil(total / warps) * chunks
        waves, rest = divmod(blocks, processors * resident)
        last = 0.4 + 0.6 * math.ceil(rest / processors) / resident if rest else 0.0
        several = 1.0 if warps >= total else 1.0 + 0.2 / warps  # b and c again in each, sums over blocks
        return (waves + last) * math.ceil(intervals / chunks) * (1.4 if chunks > 1 else 1.0) * several

    choices = [(w, c) for w in _BLOCK_WARPS for c in range(1, max(1, min(intervals // 4, 64)) + 1)]
    warps, chunks = min(choices, key=lambda choice: time(*choice))
    chunk_intervals = math.ceil(intervals / chunks)
    return LaunchPlan(warps, math.ceil(total / warps), math.ceil(intervals / chunk_intervals), chunk_intervals)


def macros(name: str, warps: int) -> dict[str, int]:
    """What the source `name` is specialised on."""
    return {
        "WARPS": warps,
        "PER_PROCESSOR": _RESIDENT[name] // warps,
        "SHARED_BYTES": shared_bytes(name, warps),
    }


def load_kernel(name: str, device: torch.device, warps: int) -> Kernel:
    return kernel(name, macros(name, warps), device, shared_bytes(name, warps))


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
            for name in _RESIDENT:
                load_kernel(name, torch.device("cuda", index), max(_BLOCK_WARPS))
    except (CompileError, OSError, RuntimeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def supports(device: torch.device, dtype: torch.dtype, d_state: int, channels: int) -> tuple[bool, str]:
    """bfloat16 on Hopper or newer, 16 states, a multiple of 8 channels."""
    if dtype != torch.bfloat16:  # fp16, fp32 gain nothing in forward, and lose digits to bfloat16 states in backward
        return False, f"it takes bfloat16, not {dtype}"
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
    return f"; CUDA C++ is not used: {problem}" if problem else "; in bfloat16 CUDA C++ by NVRTC"


def _fields(pointers: str, strides: str, sizes: str) -> list[tuple[str, type]]:
    kinds = ((pointers, ctypes.c_void_p), (strides, ctypes.c_longlong), (sizes, ctypes.c_int))
    return [(name, kind) for names, kind in kinds for name in names.split()]


class _ForwardArguments(ctypes.Structure):
    """`Arguments` in scan_forward.cu."""

    _fields_ = _fields(
        "x delta b c a entering y boundary",
        "stride_x stride_delta stride_b stride_bk",
        "length channels height width chunks chunk_intervals intervals",
    )


class _BackwardArguments(ctypes.Structure):
    """`Arguments` in scan_backward.cu."""

    _fields_ = _fields(
        "gy x delta b c boundary a flow gx gdt gb gc ga gbias",
        "stride_gy stride_x stride_delta stride_b stride_bk stride_gdt stride_gb stride_gbk",
        "length channels height width chunks chunk_intervals intervals batch",
    )


def _addresses(*tensors: Tensor | None) -> tuple[int | None, ...]:
    return tuple(None if t is None else t.data_ptr() for t in tensors)


def _aligned(t: Tensor) -> Tensor:
    """`t`, or a copy where the kernel's loads of 16 bytes could not read it."""
    whole = t.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in t.stride()[:-1])
    return t if whole else t.clone(memory_format=torch.contiguous_format)


def _all_aligned(x: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, delta, B, C = (_aligned(t) for t in (x, delta, B, C))
    if B.stride() != C.stride():
        B, C = B.contiguous(), C.contiguous()
    return x, delta, B, C


def scan_forward(
    launch: LaunchPlan, height: int, width: int, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    entering: Tensor | None, boundary: Tensor | None,
) -> Tensor:  # fmt: skip
    """y of each direction without the skip, `(batch, L, K, channels)`, bfloat16.

    Args:
        launch: of `plan`.
        height, width: of the token grid.
        x, delta, A, B, C: laid out as `triton_ss2d.scan_forward` takes them; x, B and C in bfloat16.
        entering: h at the start of each chunk, `(batch, K, chunks, N, channels)`; None for one chunk.
        boundary: gets h before every `INTERVAL`-th token, `(batch, K, intervals, N, channels)`, bfloat16; may be None.
    """
    x, delta, B, C = _all_aligned(x, delta, B, C)
    batch, length, channels = x.shape
    y = torch.empty(batch, length, NUM_DIRECTIONS, channels, dtype=x.dtype, device=x.device)
    arguments = _ForwardArguments(
        *_addresses(x, delta, B, C, A, entering, y, boundary),
        x.stride(1), delta.stride(1), B.stride(1), B.stride(2),
        length, channels, height, width, launch.chunks, launch.chunk_intervals, math.ceil(length / INTERVAL),
    )  # fmt: skip
    grid = (launch.blocks, NUM_DIRECTIONS * launch.chunks, batch)
    load_kernel("scan_forward", x.device, launch.warps).launch(grid, 32 * launch.warps, arguments)
    return y


class Gradients(NamedTuple):
    x: Tensor  # of each direction, (batch, L, K, channels), bfloat16
    A: Tensor  # (batch * chunks, K, N, channels), to be summed over the first
    dt_bias: Tensor  # (batch * chunks, K, channels), likewise
    parts: tuple[Tensor, Tensor] | None  # of B and C, (blocks, batch, L, K, N), where they are still to be summed


def scan_backward(
    launch: LaunchPlan, height: int, width: int, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor,
    C: Tensor, boundary: Tensor, flow: Tensor | None, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor,
) -> Gradients:  # fmt: skip
    """Gradients of the scan without the skip, of tensors laid out as `triton_ss2d.scan_backward` takes them.

    Args:
        launch: of `plan`.
        height, width: of the token grid.
        boundary: h before every `INTERVAL`-th token, `(batch, K, intervals, N, channels)`, bfloat16.
        flow: the gradient of h that enters each chunk from behind, `(batch, K, chunks, N, channels)`; None for one.
        grad_dt, grad_B, grad_C: written; the last two only where there is one block of channels.
    """
    grad = _aligned(grad)
    x, delta, B, C = _all_aligned(x, delta, B, C)
    batch, length, channels = x.shape
    sequences = batch * launch.chunks

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    gx = empty(batch, length, NUM_DIRECTIONS, channels, dtype=x.dtype)
    ga = empty(sequences, NUM_DIRECTIONS, STATES, channels)
    gbias = empty(sequences, NUM_DIRECTIONS, channels)
    parts = None
    if launch.blocks > 1:
        shape = launch.blocks, batch, length, NUM_DIRECTIONS, STATES
        parts = empty(*shape), empty(*shape)
    gb, gc = parts or (grad_B, grad_C)
    arguments = _BackwardArguments(
        *_addresses(grad, x, delta, B, C, boundary, A, flow, gx, grad_dt, gb, gc, ga, gbias),
        grad.stride(1), x.stride(1), delta.stride(1), B.stride(1), B.stride(2), grad_dt.stride(1),
        grad_B.stride(1), grad_B.stride(2),
        length, channels, height, width, launch.chunks, launch.chunk_intervals, boundary.shape[2], batch,
    )  # fmt: skip
    grid = (launch.blocks, NUM_DIRECTIONS * launch.chunks, batch)
    load_kernel("scan_backward", x.device, launch.warps).launch(grid, 32 * launch.warps, arguments)
    return Gradients(gx, ga, gbias, parts)
