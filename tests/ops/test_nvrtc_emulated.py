"""The CUDA C++ kernels on a CPU: their own sources, compiled as C++, a thread for each thread of the GPU.

Each result against the plain loop in double; and by ThreadSanitizer that every access to shared memory is in order.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from nnunetv2_dsvm.ops.nvrtc import compile as nvrtc
from nnunetv2_dsvm.ops.nvrtc import launch_plan

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")
# warps of a block, whether it makes delta; height, width, channels, intervals of a chunk, batch
CASES = {
    "one_token": (1, True, 1, 1, 8, 1, 1),
    "one_block": (2, True, 9, 13, 24, 99, 1),
    "blocks_and_chunks": (2, False, 7, 11, 40, 2, 2),
}


def _built(folder: Path, name: str, warps: int, raw: bool, *flags: str) -> Path | None:
    """The program, or None where the compiler does not know a flag."""
    macros = launch_plan.macros(name, warps, raw) | {"FORWARD" if name == "scan_forward" else "BACKWARD": 1}
    files = [HERE / "cuda_emulation.h", nvrtc.SOURCES / "scan_common.cuh", nvrtc.SOURCES / f"{name}.cu"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in [*files, HERE / "cuda_emulated.cpp"])
    (folder / "kernel.cpp").write_text(source, encoding="utf-8")
    command = [COMPILER, "-std=c++20", "-O1", "-w", "-fno-strict-aliasing", *flags]
    command += [f"-D{macro}={value}" for macro, value in macros.items()]
    command += [str(folder / "kernel.cpp"), "-o", str(folder / "kernel"), "-pthread"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0 or flags, built.stderr
    return folder / "kernel" if built.returncode == 0 else None


def _run(program: Path, sizes: tuple[int, ...]) -> subprocess.CompletedProcess:
    return subprocess.run([program, *map(str, sizes)], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["scan_forward", "scan_backward"])
def test_results(tmp_path, name, case):
    warps, raw, *sizes = CASES[case]
    run = _run(_built(tmp_path, name, warps, raw), tuple(sizes))
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", ["scan_forward", "scan_backward"])
def test_no_access_to_shared_memory_is_out_of_order(tmp_path, name):
    """Five intervals, so that each buffer is used again."""
    program = _built(tmp_path, name, 2, True, "-fsanitize=thread", "-g")
    run = program and _run(program, (9, 15, 24, 99, 1))
    if not run or "FATAL: ThreadSanitizer" in run.stderr:
        pytest.skip("ThreadSanitizer does not run here")
    assert run.returncode == 0, run.stdout + run.stderr[:3000]
