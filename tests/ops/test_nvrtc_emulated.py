"""The CUDA C++ kernels on a CPU: their own sources, compiled as C++, a thread for each thread of the GPU.

Each result against the plain loop in double; and by ThreadSanitizer that every access to shared memory is in order.
"""

import math
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from nnunetv2_dsvm.ops.nvrtc import compile as nvrtc
from nnunetv2_dsvm.ops.nvrtc import launch_plan
from nnunetv2_dsvm.ops.scan_order import ScanOrder, axis_orders, grid_orders

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")


class Case(NamedTuple):
    warps: int  # of a block
    raw: bool  # whether it makes delta
    sizes: tuple[int, ...]
    channels: int
    chunk_intervals: int
    batch: int
    orders: tuple[ScanOrder, ...] | None = None
    half: bool = False  # fp16 in place of bf16

    @property
    def walks(self) -> int:
        image = len(self.sizes) == 2 and self.orders is None
        return 0 if image else len(self.orders or axis_orders(len(self.sizes)))

    def arguments(self) -> tuple[int, ...]:
        tokens = grid_orders(self.sizes, orders=self.orders).flatten().tolist()
        grid = launch_plan.grid_numbers(self.sizes, self.orders)
        return self.channels, self.chunk_intervals, self.batch, math.prod(self.sizes), *grid, *tokens


CASES = {
    "one_token": Case(1, True, (1, 1), 8, 1, 1),
    "one_block": Case(2, True, (9, 13), 24, 99, 1),
    "blocks_and_chunks": Case(2, True, (7, 11), 40, 2, 2),
    "volume": Case(1, False, (3, 4, 3), 24, 1, 1),
    "two_orders": Case(1, True, (3, 2, 6), 8, 99, 2, (ScanOrder((1, 2, 0)), ScanOrder((0, 2, 1), reverse=True))),
}


def _built(folder: Path, name: str, case: Case, *flags: str, of_gradient: bool = False) -> Path | None:
    """The program, or None where the compiler does not know a flag."""
    macros = launch_plan.macros(name, case.warps, case.raw, case.walks, of_gradient, case.half)
    macros["FORWARD" if name == "scan_forward" else "BACKWARD"] = 1
    files = [HERE / "cuda_emulation.h", nvrtc.SOURCES / "scan_common.cuh", nvrtc.SOURCES / f"{name}.cu"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in [*files, HERE / "cuda_emulated.cpp"])
    (folder / "kernel.cpp").write_text(source, encoding="utf-8")
    command = [COMPILER, "-std=c++20", "-O1", "-w", "-fno-strict-aliasing", *flags]
    command += [f"-D{macro}={value}" for macro, value in macros.items()]
    command += [str(folder / "kernel.cpp"), "-o", str(folder / "kernel"), "-pthread"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0 or flags, built.stderr
    return folder / "kernel" if built.returncode == 0 else None


def _run(program: Path, case: Case) -> subprocess.CompletedProcess:
    return subprocess.run([program, *map(str, case.arguments())], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["scan_forward", "scan_backward"])
def test_results(tmp_path, name, case):
    run = _run(_built(tmp_path, name, CASES[case]), CASES[case])
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("case", ["blocks_and_chunks", "volume"])
def test_forward_in_half_precision(tmp_path, case):
    case = CASES[case]._replace(half=True)
    run = _run(_built(tmp_path, "scan_forward", case), case)
    assert run.returncode == 0, run.stdout + run.stderr


CHUNKS = {
    "image": Case(2, True, (13, 21), 40, 3, 2),
    "volume": Case(1, False, (5, 7, 9), 24, 1, 1),
}


@pytest.mark.parametrize(
    ("case", "of_gradient", "half"),
    [("image", False, False), ("image", True, False), ("volume", False, True), ("volume", True, False)],
)
def test_entering_states_of_chunks(tmp_path, case, of_gradient, half):
    """Some channels forget theirs before a chunk ends, and leave out what is left of it."""
    case = CHUNKS[case]._replace(half=half)
    run = _run(_built(tmp_path, "scan_chunks", case, of_gradient=of_gradient), case)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("scan_forward", Case(2, True, (9, 15), 24, 99, 1)),
        ("scan_backward", Case(2, True, (9, 15), 24, 99, 1)),
        ("scan_chunks", Case(2, True, (9, 30), 24, 5, 1)),
    ],
)
def test_no_access_to_shared_memory_is_out_of_order(tmp_path, name, case):
    """Five intervals, so that each buffer is used again."""
    program = _built(tmp_path, name, case, "-fsanitize=thread", "-g")
    run = program and _run(program, case)
    if not run or "FATAL: ThreadSanitizer" in run.stderr:
        pytest.skip("ThreadSanitizer does not run here")
    assert run.returncode == 0, run.stdout + run.stderr[:3000]
