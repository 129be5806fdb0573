"""Triton on this machine: whether it can launch kernels, and the GPU's numbers that launches are planned by."""

import os
from functools import lru_cache

import torch

_MIN_TRITON = (3, 4)  # 3.3 does not compile the scan of 16-bit tensors
_MIN_CAPABILITY = (7, 5)


def interpreted() -> bool:
    """Whether Triton's interpreter is on, which runs the kernels on a CPU (for tests)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@lru_cache(maxsize=1)
def triton_problem() -> str:
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
def driver_problem() -> str:
    """Why Triton cannot launch kernels on this machine's GPUs, or an empty string. Touches no tensor."""
    import triton

    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # Triton's own classes differ from version to version
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"Triton cannot launch kernels ({reason}); it needs a C compiler and Python's headers for its launcher"
    return ""


def device_problem(device: torch.device) -> str:
    """Why Triton launches no kernels on this device, or an empty string."""
    if device.type not in ("cuda", "xpu") and not interpreted():
        return f"the Triton kernels run on GPUs, not on {device.type}"
    if problem := triton_problem():
        return problem
    if device.type != "cpu" and (problem := driver_problem()):
        return problem
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < _MIN_CAPABILITY:
            return f"Triton needs compute capability 7.5, this GPU has {capability[0]}.{capability[1]}"
    return ""


@lru_cache(maxsize=8)
def device_numbers(device: torch.device) -> tuple[int, int]:
    """(multiprocessors, threads of a warp)."""
    if device.type == "cpu":
        return 1, 32
    import triton

    properties = getattr(torch, device.type).get_device_properties(device)
    names = ("multi_processor_count", "gpu_subslice_count")  # CUDA's, XPU's
    processors: int = next((getattr(properties, name) for name in names if getattr(properties, name, 0)), 64)
    return processors, triton.runtime.driver.active.get_current_target().warp_size


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n, for n from 1 on."""
    return 1 << (n - 1).bit_length()
