"""The devices that torch can compute on here."""

import os
import platform
from pathlib import Path
from typing import Any

import torch


def cpu_name() -> str:
    """The processor's name as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cpu_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name(device: torch.device) -> str:
    """The name of the hardware behind a torch device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else f"Apple GPU ({cpu_name()})"


def trains_in_bf16(device: torch.device) -> bool:
    """Whether `device` computes bf16 in hardware (CUDA compute capability >= 8, not emulated)."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def device_report() -> dict[str, Any]:
    """CPU cores and threads, CUDA GPUs with memory (GiB) and compute capability, and whether MPS works.

    `cuda_problem` says why torch cannot use CUDA, and is None if it can.
    """
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append(
                {
                    "name": properties.name,
                    "memory_gib": round(properties.total_memory / 2**30, 1),
                    "capability": f"{properties.major}.{properties.minor}",
                }
            )
    return {
        "cpu": {"name": cpu_name(), "cores": usable_cpu_cores(), "torch_threads": torch.get_num_threads()},
        "cuda": gpus,
        "cuda_problem": _cuda_problem(),
        "mps": torch.backends.mps.is_available(),
    }


def _cuda_problem() -> str | None:
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return "no device"
