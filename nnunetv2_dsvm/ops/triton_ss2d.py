"""Fused four-direction scan on GPUs: launches of the Triton kernels, and the backend built on them.

All four directions read one channels-last x by index arithmetic. The states are saved only every `INTERVAL` tokens and
recomputed in backward; sums that other backends make with atomics are made from partial sums, so that every run gives
the same bits. Where images and channels do not fill the GPU, L is cut into chunks that run at the same time.
"""

import math
import os
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.nvrtc import scan as nvrtc_scan
from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS

INTERVAL = 64  # tokens between saved states: 1/64 of the states' memory kept, 1/64 of their traffic
MAX_D_STATE = 64
_MIN_TRITON = (3, 3)  # tuples inside kernels
_MIN_CAPABILITY = (7, 5)
# Programs are of one warp, an NVIDIA multiprocessor has four schedulers, registers allow two or three warps on each.
_BUSY = 8  # programs per multiprocessor
_FULL = 16  # so many, where chunks have to be made, that the last ones to end do not matter


def interpreted() -> bool:
    """Whether Triton's interpreter is on, which runs the kernels on a CPU (for tests)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@lru_cache(maxsize=1)
def _triton_problem() -> str:
    """Why the kernels cannot be used at all, or an empty string."""
    try:
        import triton
    except Exception as error:  # a broken install may fail in other ways than ImportError
        return f"Triton cannot be imported ({type(error).__name__}: {error})"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < _MIN_TRITON:
        return f"Triton {triton.__version__} is older than {'.'.join(map(str, _MIN_TRITON))}"
    return ""


@lru_cache(maxsize=1)
def _driver_problem() -> str:
    """Why Triton cannot launch kernels on this machine's GPUs, or an empty string. Touches no tensor."""
    import triton

    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # Triton's own classes differ from version to version
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"Triton cannot launch kernels ({reason}); it needs a C compiler and Python's headers for its launcher"
    return ""


def supports(device: torch.device, dtype: torch.dtype, d_state: int) -> tuple[bool, str]:
    """GPUs that Triton knows, fp32 or 16 bit, d_state up to 64."""
    if device.type not in ("cuda", "xpu") and not interpreted():
        return False, f"the Triton kernels run on GPUs, not on {device.type}"
    if problem := _triton_problem():
        return False, problem
    if device.type != "cpu" and (problem := _driver_problem()):
        return False, problem
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < _MIN_CAPABILITY:
            return False, f"Triton needs compute capability 7.5, this GPU has {capability[0]}.{capability[1]}"
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False, f"the Triton kernels take float32, float16 or bfloat16, not {dtype}"
    if d_state > MAX_D_STATE:
        return False, f"the Triton kernels take d_state up to {MAX_D_STATE}, not {d_state}"
    return True, f"fused Triton kernels{nvrtc_scan.in_words(device)}"


class Tile(NamedTuple):
    """How a warp tiles channels x states (see `triton_scan`), and the tokens it loads at once."""

    T: int
    LD: int
    LN: int
    SD: int
    SN: int

    @property
    def channels(self) -> int:
        return self.LD * self.SD


@lru_cache(maxsize=8)
def _device_numbers(device: torch.device) -> tuple[int, int]:
    """(multiprocessors, threads of a warp)."""
    if device.type == "cpu":
        return 1, 32
    import triton

    properties = getattr(torch, device.type).get_device_properties(device)
    processors = getattr(properties, "multi_processor_count", None) or getattr(properties, "gpu_subslice_count", 64)
    return processors, triton.runtime.driver.active.get_current_target().warp_size


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return _device_numbers(device)[0]


def scan_tile(d_state: int, warp: int) -> Tile:
    """Nearly square in registers, because backward sums over states and over channels."""
    states = _power_of_2(d_state)
    ln = max(min(4, states), states // 16)
    sn = states // ln
    return Tile(T=4, LD=warp // ln, LN=ln, SD=max(1, min(4, 16 // sn)), SN=sn)


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


class Saved(NamedTuple):
    """The states that forward keeps for backward: `(batch, K, intervals, N, channels)`."""

    interval: int  # tokens
    shape: tuple[int, ...]
    dtype: torch.dtype

    def empty(self, like: Tensor) -> Tensor:
        """On the device of `like`, uninitialised."""
        return like.new_empty(self.shape, dtype=self.dtype)


class Problem(NamedTuple):
    """Sizes of one call. The scan's tensors are read in place, through their strides over tokens and directions."""

    batch: int
    height: int
    width: int
    channels: int
    d_state: int
    device: torch.device

    @property
    def length(self) -> int:
        return self.height * self.width

    @property
    def intervals(self) -> int:
        return math.ceil(self.length / INTERVAL)

    def saved(self, dtype: torch.dtype) -> "Saved":
        """How states are kept for backward, for inputs that are all of `dtype`: in bfloat16 by the CUDA C++ kernels."""
        nvrtc = nvrtc_scan.supports(self.device, dtype, self.d_state, self.channels)[0]
        interval = nvrtc_scan.INTERVAL if nvrtc else INTERVAL
        shape = (self.batch, NUM_DIRECTIONS, math.ceil(self.length / interval), self.d_state, self.channels)
        return Saved(interval, shape, torch.bfloat16 if nvrtc else torch.float32)

    def takes_dt(self, kernel: str, dtype: torch.dtype) -> bool:
        """Whether `kernel`, "scan_forward" or "scan_backward", makes delta from dt itself.

        That are the CUDA C++ kernels without chunks, whose states and flows come from kernels that take delta.
        """
        if self.saved(dtype).dtype != torch.bfloat16:
            return False
        return nvrtc_scan.plan(kernel, self.batch, self.length, self.channels, processors(self.device)).chunks == 1

    def programs(self, tile: Tile) -> int:
        """Of a launch in one chunk."""
        return self.batch * NUM_DIRECTIONS * math.ceil(self.channels / tile.channels)

    def forward_tile(self) -> Tile:
        """`scan_tile`, halved where there are too few programs to keep the GPU busy and no chunks are made."""
        processors, warp = _device_numbers(self.device)
        tile = scan_tile(self.d_state, warp)
        if self.chunks(tile)[0] == 1 and self.programs(tile) < processors * _BUSY:
            return tile._replace(T=2 * tile.T, SD=max(1, tile.SD // 2))
        return tile

    def chunks(self, tile: Tile) -> tuple[int, int]:
        """(chunks of an image, tokens of a chunk): as many as fill the GPU, a whole number of intervals each."""
        programs = self.programs(tile)
        wanted = _device_numbers(self.device)[0] * _FULL
        # The second pass over the tokens costs about half the first: a gain from three times the programs on.
        chunks = min(math.ceil(wanted / programs), self.intervals) if programs * 3 <= wanted else 1
        length = math.ceil(self.intervals / max(1, chunks)) * INTERVAL
        return math.ceil(self.length / length), length

    def constants(self, tile: Tile, *tensors: Tensor) -> dict[str, bool]:
        """What the kernels are specialised on; `tensors` are those loaded token by token."""
        even = all(n % 2 == 0 for t in tensors for n in (t.storage_offset(), *t.stride()[:-1]))
        even = even and all(n % 2 == 0 for n in (self.channels, self.d_state, tile.SD, tile.SN))
        widest = max(t.element_size() for t in tensors)
        return {
            "VECTOR": widest * max(tile.SD, tile.SN) <= 16,
            "PACKED": even,
            "WIDE": self.length * NUM_DIRECTIONS * (self.channels + 2 * self.d_state) >= 2**31,
            "EVEN_L": self.length % tile.T == 0,
            "STRAIGHT": self.height % tile.T == 0 and self.width % tile.T == 0,
            "EVEN_D": self.channels % tile.channels == 0,
            "EVEN_N": self.d_state == tile.LN * tile.SN,
        }


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """Of all tensors; float32 where they differ."""
    dtypes = {t.dtype for t in tensors}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def delta_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of delta in memory: it is positive and at most of order 100, where float16 is eight times finer than bfloat16."""
    return torch.float32 if dtype == torch.float32 else torch.float16


def softplus(dt: Tensor, bias: Tensor, delta: Tensor) -> Tensor:
    """softplus(dt + bias) into `delta`, both `(batch, L, K, channels)`, contiguous but for the stride over tokens."""
    from nnunetv2_dsvm.ops.triton_elementwise import softplus_kernel

    batch, length, directions, channels = dt.shape
    rows, block_r, block_d = batch * length, 32, min(64, _power_of_2(channels))
    grid = (math.ceil(rows / block_r), math.ceil(channels / block_d), directions)
    softplus_kernel[grid](
        dt, bias, delta, rows, channels, dt.stride(1), delta.stride(1), BLOCK_R=block_r, BLOCK_D=block_d, num_warps=2
    )
    return delta


def merge(
    parts: Tensor, skip: Tensor, scale: Tensor, dtype: torch.dtype, other: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`parts` `(batch, L, K, channels)` summed over K plus skip * scale, in `dtype`.

    The second result is the sum over tokens of skip * other, `(channels,)`.
    """
    from nnunetv2_dsvm.ops.triton_elementwise import merge_kernel

    batch, length, _, channels = parts.shape
    rows, block_r, block_d = batch * length, 16, min(64, _power_of_2(channels))
    grid = (math.ceil(rows / block_r), math.ceil(channels / block_d))
    out = torch.empty(batch, length, channels, dtype=dtype, device=skip.device)
    dot = None if other is None else torch.empty(grid[0], channels, dtype=torch.float32, device=skip.device)
    merge_kernel[grid](
        parts, skip, scale, other, out, dot, rows, channels, skip.stride(1),
        DOT=other is not None, BLOCK_R=block_r, BLOCK_D=block_d,
    )  # fmt: skip
    return out, None if dot is None else dot.sum(0)


def _entering(
    problem: Problem, tile: Tile, chunks: int, chunk_length: int, v: Tensor, delta: Tensor, A: Tensor, w: Tensor,
    reverse: bool,
) -> Tensor:  # fmt: skip
    """The state (reverse: the gradient of the state) that enters each chunk, `(batch, K, chunks, N, channels)`."""
    from nnunetv2_dsvm.ops.triton_scan import chunk_end_kernel, chunk_entry_kernel

    p = problem
    shape = (p.batch, NUM_DIRECTIONS, chunks)
    end = torch.empty(*shape, p.d_state, p.channels, dtype=torch.float32, device=p.device)
    time = torch.empty(*shape, p.channels, dtype=torch.float32, device=p.device)
    grid = (math.ceil(p.channels / tile.channels), NUM_DIRECTIONS, p.batch * chunks)
    chunk_end_kernel[grid](
        v, delta, A, w, end, time, p.length, p.channels, p.d_state, p.height, p.width, chunks, chunk_length,
        v.stride(1), delta.stride(1), w.stride(1), w.stride(2), 1,
        REVERSE=reverse, **p.constants(tile, v, delta, w), **tile._asdict(), num_warps=1,
    )  # fmt: skip
    block = min(256, _power_of_2(p.d_state * p.channels))
    grid = (math.ceil(p.d_state * p.channels / block), p.batch * NUM_DIRECTIONS)
    chunk_entry_kernel[grid](end, time, A, p.channels, p.d_state, chunks, REVERSE=reverse, BLOCK=block, num_warps=2)
    return end


def scan_forward(
    problem: Problem, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor, save: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """In `dtype`, the output of each direction without the skip, `(batch, L, K, channels)`, and the saved states.

    delta is after softplus, or dt itself where `takes_dt`; A and dt_bias are contiguous fp32; B and C have the same
    strides.
    """
    from nnunetv2_dsvm.ops.triton_scan import forward_kernel

    p = problem
    kept = p.saved(common_dtype(x, B, C))
    boundary = kept.empty(x) if save else None
    if kept.dtype == torch.bfloat16:
        return _nvrtc_forward(p, x, delta, A, B, C, dt_bias, boundary), boundary
    tile = p.forward_tile()
    chunks, chunk_length = p.chunks(tile)
    entering = _entering(p, tile, chunks, chunk_length, x, delta, A, B, reverse=False) if chunks > 1 else None
    y = torch.empty(p.batch, p.length, NUM_DIRECTIONS, p.channels, dtype=dtype, device=p.device)
    grid = (math.ceil(p.channels / tile.channels), NUM_DIRECTIONS, p.batch * chunks)
    forward_kernel[grid](
        x, delta, A, B, C, y, entering, boundary, p.length, p.channels, p.d_state, p.height, p.width,
        chunks, chunk_length, kept.shape[2], x.stride(1), delta.stride(1), B.stride(1), B.stride(2), 1,
        HAS_ENTERING=chunks > 1, SAVE=save, INTERVAL=kept.interval, **p.constants(tile, x, delta, B, C),
        **tile._asdict(), num_warps=1,
    )  # fmt: skip
    return y, boundary


def _sum_blocks(parts: Tensor, out: Tensor) -> None:
    """The sum of `(blocks, batch, L, K, N)` over blocks of channels into `out` `(batch, L, K, N)`."""
    from nnunetv2_dsvm.ops.triton_elementwise import sum_blocks_kernel

    blocks, batch, length, directions, d_state = parts.shape
    rows, columns = batch * length, directions * d_state
    block_c = _power_of_2(columns)
    block_r = max(1, 1024 // block_c)
    sum_blocks_kernel[(math.ceil(rows / block_r),)](
        parts, out, rows, columns, d_state, blocks, out.stride(1), out.stride(2), BLOCK_R=block_r, BLOCK_C=block_c
    )


class ScanGradients(NamedTuple):
    x: Tensor  # of each direction, (batch, L, K, channels)
    A: Tensor
    dt_bias: Tensor


def scan_backward(
    problem: Problem, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
    boundary: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor,
) -> ScanGradients:  # fmt: skip
    """Gradients, without those of the skip. Those of dt, B and C are written into tensors of their shapes.

    delta and the rest as `scan_forward` takes them.
    """
    from nnunetv2_dsvm.ops.triton_scan_backward import backward_kernel

    p = problem
    tile = scan_tile(p.d_state, _device_numbers(p.device)[1])
    if boundary.dtype == torch.bfloat16:
        return _nvrtc_backward(p, tile, grad, x, delta, A, B, C, dt_bias, boundary, grad_dt, grad_B, grad_C)
    chunks, chunk_length = p.chunks(tile)
    flow = None
    if chunks > 1:
        flow = _entering(p, tile, chunks, chunk_length, grad, delta, A, C, reverse=True)
    blocks = math.ceil(p.channels / tile.channels)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=p.device)

    gx = empty(p.batch, p.length, NUM_DIRECTIONS, p.channels, dtype=x.dtype)
    gb, gc = (empty(blocks, p.batch, p.length, NUM_DIRECTIONS, p.d_state) for _ in range(2))
    ga = empty(p.batch * chunks, NUM_DIRECTIONS, p.d_state, p.channels)
    gbias = empty(p.batch * chunks, NUM_DIRECTIONS, p.channels)
    programs = blocks * NUM_DIRECTIONS * p.batch * chunks
    scratch = empty(programs * (INTERVAL // tile.T) * tile.channels * tile.LN * tile.SN)
    backward_kernel[(blocks, NUM_DIRECTIONS, p.batch * chunks)](
        grad, x, delta, A, B, C, boundary, flow, scratch, gx, grad_dt, gb, gc, ga, gbias,
        p.length, p.channels, p.d_state, p.height, p.width, chunks, chunk_length, p.intervals,
        grad.stride(1), x.stride(1), delta.stride(1), B.stride(1), B.stride(2), grad_dt.stride(1), 1,
        HAS_FLOW=chunks > 1, INTERVAL=INTERVAL, **p.constants(tile, grad, x, delta, B, C),
        **tile._asdict(), num_warps=1,
    )  # fmt: skip
    _sum_blocks(gb, grad_B)
    _sum_blocks(gc, grad_C)
    return ScanGradients(gx, ga.sum(0).transpose(1, 2), gbias.sum(0))


def _nvrtc_forward(
    problem: Problem, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
    boundary: Tensor | None,
) -> Tensor:  # fmt: skip
    p = problem
    plan = nvrtc_scan.plan("scan_forward", p.batch, p.length, p.channels, processors(p.device))
    entering = None
    if plan.chunks > 1:
        tile = scan_tile(p.d_state, _device_numbers(p.device)[1])
        entering = _entering(p, tile, plan.chunks, plan.chunk_length, x, delta, A, B, reverse=False)
    return nvrtc_scan.scan_forward(plan, p.height, p.width, x, delta, A, B, C, dt_bias, entering, boundary)


def _nvrtc_backward(
    problem: Problem, tile: Tile, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    dt_bias: Tensor, boundary: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor,
) -> ScanGradients:  # fmt: skip
    p = problem
    plan = nvrtc_scan.plan("scan_backward", p.batch, p.length, p.channels, processors(p.device))
    flow = None
    if plan.chunks > 1:
        flow = _entering(p, tile, plan.chunks, plan.chunk_length, grad, delta, A, C, reverse=True)
    g = nvrtc_scan.scan_backward(
        plan, p.height, p.width, grad, x, delta, A, B, C, dt_bias, boundary, flow, grad_dt, grad_B, grad_C
    )
    if g.parts:
        for parts, out in zip(g.parts, (grad_B, grad_C), strict=True):
            _sum_blocks(parts, out)
    return ScanGradients(g.x, g.A.sum(0).transpose(1, 2), g.dt_bias.sum(0))


def _prepare(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor, height: int, width: int
) -> tuple[Problem, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    problem = Problem(x.shape[0], height, width, x.shape[2], A.shape[2], x.device)
    delta = torch.empty(dt.shape, dtype=delta_dtype(x.dtype), device=x.device)
    dt_bias = dt_bias.float().contiguous()
    delta = softplus(dt.contiguous(), dt_bias, delta)
    return problem, x.contiguous(), delta, A.float().contiguous(), B.contiguous(), C.contiguous(), dt_bias


def forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, height: int, width: int
) -> Tensor:
    """As `reference.forward`; shapes as in `nnunetv2_dsvm.ops.ss2d_scan`."""
    return _forward(x, dt, A, B, C, D, dt_bias, height, width, save=False)[0]


def forward_saving(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """As `forward`, and the states that `backward_from` starts from."""
    return _forward(x, dt, A, B, C, D, dt_bias, height, width, save=True)


def _forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, height: int, width: int,
    save: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    problem, x, delta, A, B, C, dt_bias = _prepare(x, dt, A, B, C, dt_bias, height, width)
    # A direction alone can exceed the range of float16 where the sum does not.
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    parts, boundary = scan_forward(problem, x, delta, A, B, C, dt_bias, save, dtype)
    return merge(parts, x, D.float().sum(0), x.dtype)[0], boundary


def backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    height: int, width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, dt, A, B, C, D and dt_bias, given `grad`, the gradient of the output `(batch, L, channels)`."""
    boundary = forward_saving(x, dt, A, B, C, D, dt_bias, height, width)[1]
    return backward_from(boundary, grad, x, dt, A, B, C, D, dt_bias, height, width)


def backward_from(
    boundary: Tensor, grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    dt_bias: Tensor, height: int, width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `backward`, from the states that `forward_saving` saved."""
    inputs = (x, dt, A, B, C, D, dt_bias)
    grad = grad.contiguous()
    problem, x, delta, A, B, C, dt_bias = _prepare(x, dt, A, B, C, dt_bias, height, width)
    # The CUDA C++ backward writes bfloat16, whatever dt was.
    dtype = torch.bfloat16 if boundary.dtype == torch.bfloat16 else dt.dtype
    grad_dt = torch.empty_like(dt, dtype=dtype, memory_format=torch.contiguous_format)
    grad_B, grad_C = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (B, C))
    g = scan_backward(problem, grad, x, delta, A, B, C, dt_bias, boundary, grad_dt, grad_B, grad_C)
    grad_x, grad_D = merge(g.x, grad, D.float().sum(0), x.dtype, other=x)
    grads = (grad_x, grad_dt, g.A, grad_B, grad_C, grad_D.expand_as(D), g.dt_bias)
    return tuple(g.to(t.dtype).contiguous() for g, t in zip(grads, inputs, strict=True))
