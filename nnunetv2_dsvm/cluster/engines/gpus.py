"""The GPUs of this machine, as NVIDIA's own tool lists them: no torch, which would take memory of each."""

import os
import subprocess
import threading


class GpuMemory:
    """The most that the first visible GPU has had in use within the block, looked up every few seconds.

    Args:
        alone: whether the GPU is this process's alone; else nothing is looked up.
    """

    interval_s = 5.0

    def __init__(self, alone: bool) -> None:
        self.peak_mib: float | None = None
        self._device = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] if alone else ""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "GpuMemory":
        if self._device:
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=self.interval_s)

    def _watch(self) -> None:
        while (used := memory_in_use_mib(self._device)) is not None:
            self.peak_mib = max(used, self.peak_mib or 0.0)
            if self._ended.wait(self.interval_s):
                return


def memory_in_use_mib(device: str) -> float | None:
    """Of a GPU, by NVIDIA's own tool; None where it cannot tell.

    Args:
        device: number or UUID.
    """
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", device]
    try:
        return float(subprocess.run(query, capture_output=True, timeout=30, check=True, text=True).stdout.split()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def visible_gpus() -> list[str]:
    """The GPUs that a training may be given, by number or UUID: those of CUDA_VISIBLE_DEVICES, or else all."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30, check=True, text=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]
