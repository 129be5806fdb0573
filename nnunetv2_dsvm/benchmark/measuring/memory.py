"""Peak memory of a call.

On CUDA the allocator counts. A CPU has no such counter in torch, so the resident set's high-water mark is read, in a
process that does nothing else (`isolated.py`): the pages that the call really needed, allocator overhead included.
"""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HOW = {
    "cuda": "torch.cuda.max_memory_allocated, and all that recorded CUDA graphs hold",
    "cpu": "peak minus baseline resident set in a fresh process per case, after a warm-up on a tiny shape",
    "mps": "not measured: torch has no peak counter for MPS",
}


class PeakMemory:
    """The largest memory in use since `reset`, in bytes above the baseline."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline: int | None = 0

    def set_baseline(self) -> None:
        """What is in use now does not count from here on."""
        self.reset()
        if self.device.type == "cuda":
            self.baseline = torch.cuda.memory_allocated(self.device)
        elif self.device.type == "cpu":
            self.baseline = _peak_resident_bytes()

    def reset(self) -> None:
        """Forgets the peak so far."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu":
            _return_free_memory()
            _reset_peak_resident()

    def read(self) -> int | None:
        """Bytes, or None where this cannot be measured."""
        peak: int | None = None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device) + inside_cuda_graphs(self.device)
        elif self.device.type == "cpu":
            peak = _peak_resident_bytes()
        return None if peak is None or self.baseline is None else peak - self.baseline


def inside_cuda_graphs(device: torch.device) -> int:
    """Bytes that a replay uses without allocating them: what recorded CUDA graphs hold, but no tensor does."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == index and tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0)
    )


def _return_free_memory() -> None:
    """Gives glibc's free pages back, so that what an earlier call freed is not hidden in the baseline."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library; a fresh process has little to give back
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak_resident() -> None:
    with contextlib.suppress(OSError):  # elsewhere the mark is the highest so far, which a fresh process keeps low
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def _peak_resident_bytes() -> int | None:
    """High-water mark of the resident set, or None (Windows)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def kept_for_backward(
    forward: Callable[[], torch.Tensor], device: torch.device, held: tuple[torch.Tensor, ...] = ()
) -> int:
    """Bytes that live between forward and backward; the output counts only if backward needs it.

    On CUDA what stays allocated, elsewhere the tensors that autograd saves, each storage counted once.

    Args:
        forward: returns the output, with a graph.
        device: of the output.
        held: tensors that exist anyway (inputs and parameters).
    """
    if device.type == "cuda":
        gc.collect()
        before = torch.cuda.memory_allocated(device)
        graph = forward().grad_fn  # the output is dropped, its graph stays
        kept = torch.cuda.memory_allocated(device) - before
        del graph
        return kept
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        graph = forward().grad_fn
    for tensor in held:
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    del graph
    return sum(saved.values())
