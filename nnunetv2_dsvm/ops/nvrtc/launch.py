"""Cubins to kernels on the GPU, and their launches on torch's current stream, through CUDA's driver."""

import ctypes
import sys
from functools import lru_cache
from threading import Lock

import torch

from nnunetv2_dsvm.ops.nvrtc.compile import cubin

_SHARED_MEMORY = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_lock = Lock()
_kernels: dict[tuple, "Kernel"] = {}


@lru_cache(maxsize=1)
def _driver() -> ctypes.CDLL:
    if sys.platform == "win32":
        return ctypes.WinDLL("nvcuda.dll")
    return ctypes.CDLL("libcuda.so.1")


def _check(status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"CUDA cannot {what}: {(text.value or b'unknown error').decode()} ({status})")


def _enter_context(device: int) -> None:
    """Makes torch's context of the GPU the thread's: a thread that has not touched the GPU has none."""
    driver, context = _driver(), ctypes.c_void_p()
    _check(driver.cuCtxGetCurrent(ctypes.byref(context)), "say which context is current")
    if not context:
        _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), f"open GPU {device}")
        _check(driver.cuCtxSetCurrent(context), f"use GPU {device}")


class Kernel:
    """A kernel on one GPU, which takes one struct by value.

    Args:
        name, macros: as in `compile.cubin`.
        device: index of the GPU, the current one.
        shared_bytes: of dynamic shared memory of a block.
        function: the kernel; None: that with the source's name.
    """

    def __init__(
        self, name: str, macros: dict[str, int], device: int, shared_bytes: int, function: str | None = None
    ) -> None:
        function = function or name
        code = cubin(name, torch.cuda.get_device_capability(device), macros)
        driver, module, self._function = _driver(), ctypes.c_void_p(), ctypes.c_void_p()
        _enter_context(device)
        _check(driver.cuModuleLoadData(ctypes.byref(module), code), f"load the kernel {function}")
        found = driver.cuModuleGetFunction(ctypes.byref(self._function), module, function.encode())
        _check(found, f"find the kernel {function}")
        allowed = driver.cuFuncSetAttribute(self._function, _SHARED_MEMORY, shared_bytes)
        _check(allowed, f"give {function} {shared_bytes} bytes of shared memory")
        self._name, self._device, self._shared_bytes = function, device, shared_bytes

    def launch(self, grid: tuple[int, int, int], threads: int, arguments: ctypes.Structure) -> None:
        """On torch's current stream."""
        _enter_context(self._device)
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        launched = _driver().cuLaunchKernel(
            self._function, *grid, threads, 1, 1, self._shared_bytes, stream, pointers, None
        )
        _check(launched, f"launch the kernel {self._name}")


def kernel(
    name: str, macros: dict[str, int], device: torch.device, shared_bytes: int, function: str | None = None
) -> Kernel:
    """The kernel, compiled and loaded by the first call of its kind in a process."""
    index = torch.cuda.current_device() if device.index is None else device.index
    key = (name, function, tuple(sorted(macros.items())), index, shared_bytes)
    if key not in _kernels:
        with _lock:
            if key not in _kernels:
                _kernels[key] = Kernel(name, macros, index, shared_bytes, function)
    return _kernels[key]
