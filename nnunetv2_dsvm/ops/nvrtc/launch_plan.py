"""How the scan's kernels in CUDA C++ are launched: the warps of a block, the chunks of an image, the shared memory."""

import math
from functools import lru_cache
from typing import NamedTuple

from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS, ScanOrder, axis_orders

INTERVAL = 32  # tokens between saved states in bfloat16: as many bytes as the Triton kernels' fp32 every 64 tokens
STATES = 16
WARP_CHANNELS = 16
RESIDENT = {"scan_forward": 16, "scan_backward": 12, "scan_chunks": 24}  # warps of a multiprocessor, by registers
BLOCK_WARPS = (12, 6, 4, 3, 2, 1)
# Of "scan_chunks"; smaller blocks share w among too few, and a multiprocessor's memory holds fewer.
CHUNK_WARPS = (12, 6)
CHUNKS_SHARE = {"scan_forward": 0.75, "scan_backward": 0.27}  # of a kernel's time: its chunks' entering states
MAX_AXES = 3  # of grids
MAX_WALKS = 8  # directions of a grid that is no image, whose walks are arguments


class LaunchPlan(NamedTuple):
    """How channels and tokens are dealt to blocks of threads."""

    warps: int  # of a block, 16 channels each
    blocks: int  # of channels
    chunks: int  # of an image's tokens
    chunk_intervals: int
    chunk_warps: int  # of a block of the kernel that makes the chunks' entering states


def shared_bytes(name: str, warps: int) -> int:
    """Shared memory of a block of the kernel `name`, as `Block` in its source."""
    pitch = 4 * (8 * warps + (0 if warps % 2 else 8))
    if name == "scan_chunks":
        return 4 * INTERVAL * pitch + 16384 + 1024 + warps * 768 + 4 * 4 * INTERVAL
    if name == "scan_forward":
        return 4 * INTERVAL * pitch + 20480 + 2048 + warps * 768 + 4 * 4 * INTERVAL
    return (6 * INTERVAL + 2 * STATES) * pitch + 20480 + warps * (4096 + 1280 + 2048 + 64) + 4 * 4 * INTERVAL


def grid_numbers(sizes: tuple[int, ...], orders: tuple[ScanOrder, ...] | None) -> tuple[int, ...]:
    """`GRID` in `scan_common.cuh`: height and width of an image in its four directions, else six numbers a direction.

    The orders have step 1.
    """
    if len(sizes) == 2 and orders is None:
        return sizes
    lacking = MAX_AXES - len(sizes)
    counts = (1,) * lacking + sizes
    strides = (counts[1] * counts[2], counts[2], 1)
    numbers: list[int] = []
    for order in orders or axis_orders(len(sizes)):
        slab, line, inner = (*range(lacking), *(lacking + axis for axis in order.axes))
        sign, first = (-1, math.prod(sizes) - 1) if order.reverse else (1, 0)
        numbers += (counts[inner], counts[line], first, *(sign * strides[axis] for axis in (inner, line, slab)))
    return tuple(numbers)


@lru_cache(maxsize=256)
def plan(
    name: str, batch: int, length: int, channels: int, processors: int, directions: int = NUM_DIRECTIONS
) -> LaunchPlan:
    """The launch of the kernel `name` that should take the least time.

    Blocks run in waves of as many as the multiprocessors hold. A wave takes a time in proportion to its tokens, less
    where the last one leaves multiprocessors with fewer warps. Chunks cost a pass more over the tokens of all but one.
    """
    total, intervals = math.ceil(channels / WARP_CHANNELS), math.ceil(length / INTERVAL)

    def waves(kernel: str, warps: int, chunks: int) -> float:
        resident = RESIDENT[kernel] // warps
        whole, rest = divmod(batch * directions * math.ceil(total / warps) * chunks, processors * resident)
        last = 0.4 + 0.6 * math.ceil(rest / processors) / resident if rest else 0.0
        several = 1.0 if warps >= total else 1.0 + 0.2 / warps  # b and c again in each, sums over blocks
        return (whole + last) * several

    def time(warps: int, chunks: int) -> float:
        of_chunks = 1.0 + CHUNKS_SHARE[name] * (chunks - 1) / chunks
        return waves(name, warps, chunks) * math.ceil(intervals / chunks) * of_chunks

    choices = [(w, c) for w in BLOCK_WARPS for c in range(1, max(1, min(intervals // 4, 64)) + 1)]
    warps, chunks = min(choices, key=lambda choice: time(*choice))
    chunk_intervals = math.ceil(intervals / chunks)
    chunks = math.ceil(intervals / chunk_intervals)
    chunk_warps = min(CHUNK_WARPS, key=lambda warps: waves("scan_chunks", warps, chunks - 1))
    return LaunchPlan(warps, math.ceil(total / warps), chunks, chunk_intervals, chunk_warps)


def macros(
    name: str, warps: int, raw: bool = False, walks: int = 0, of_gradient: bool = False, half: bool = False
) -> dict[str, int]:
    """What the source `name` is specialised on.

    Args:
        name, warps: of a block.
        raw: it gets dt in place of delta.
        walks: unless of an image, K.
        of_gradient: "scan_chunks" makes dh.
        half: of float16 in place of bfloat16; not the backward.
    """
    return ({"OF_GRADIENT": int(of_gradient)} if name == "scan_chunks" else {}) | {
        "WARPS": warps,
        "PER_PROCESSOR": RESIDENT[name] // warps,
        "RAW": int(raw),
        "HALF": int(half),
        "SHARED_BYTES": shared_bytes(name, warps),
        "WALKS": walks,
    }
