"""CUDA C++ to a cubin by NVRTC, kept on the disk by what it was made from."""

import ctypes
import hashlib
import importlib.util
import os
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
COMMON = ("intrinsics.cuh", "scan_common.cuh")  # put before each kernel


class CompileError(RuntimeError):
    """NVRTC refused a source; the message holds its log."""


def cache_directory() -> Path:
    """Where cubins are kept: the user's cache directory."""
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nnunetv2_dsvm" / "kernels"


def _candidates() -> list[str]:
    """NVRTC of the CUDA release that torch was built with: torch's own copy, its wheel's, then the system's."""
    major = (torch.version.cuda or "").split(".")[0]
    windows = sys.platform == "win32"
    pattern = f"nvrtc64_{major}*_0.dll" if windows else f"libnvrtc.so.{major}*"
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(torch.__file__).parent / "lib"]
    for root in (spec.submodule_search_locations or []) if spec else []:
        folders += sorted(Path(root).glob("*/bin" if windows else "*/lib"))
    found = [str(path) for folder in folders for path in sorted(folder.glob(pattern))]
    return found if windows else [*found, f"libnvrtc.so.{major}"]


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, str]:
    if torch.version.cuda is None:
        return None, "this torch is built without CUDA"
    for candidate in _candidates():
        try:
            return ctypes.CDLL(candidate), ""
        except OSError:
            continue
    return None, f"NVRTC of CUDA {torch.version.cuda} was not found"


def nvrtc_problem() -> str:
    """Why nothing can be compiled here, or an empty string."""
    return _load()[1]


def nvrtc_version() -> tuple[int, int]:
    """Of the NVRTC in use."""
    library, problem = _load()
    if library is None:
        raise CompileError(problem)
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def cubin(name: str, capability: tuple[int, int], macros: dict[str, int]) -> bytes:
    """The kernel `name`.cu for GPUs of `capability`, from the cache where it was compiled before.

    Args:
        name: a file of this directory without its ending; `COMMON` is put before it.
        capability: such as (9, 0).
        macros: what the source is specialised on.

    Raises:
        CompileError: NVRTC is missing or refuses the source.
    """
    source = "".join((SOURCES / file).read_text(encoding="utf-8") for file in (*COMMON, f"{name}.cu"))
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", "--ftz=true", "--std=c++17"]
    options += [f"-D{macro}={value}" for macro, value in sorted(macros.items())]
    made_from = "\n".join([source, *options, str(nvrtc_version())])
    path = cache_directory() / f"{name}_{hashlib.sha256(made_from.encode()).hexdigest()[:32]}.cubin"
    try:
        return path.read_bytes()
    except OSError:
        code = compiled(name, source, options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be reading or writing the same: it sees all of it or nothing.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)
    except OSError:  # without a writable home every process compiles for itself
        pass
    return code


def compiled(name: str, source: str, options: list[str]) -> bytes:
    nvrtc, problem = _load()
    if nvrtc is None:
        raise CompileError(problem)
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None)
    try:
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), arguments):
            raise CompileError(f"NVRTC cannot compile {name}.cu: {_text(nvrtc, program).strip()}")
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, code)
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.value.decode(errors="replace")
