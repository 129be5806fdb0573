"""The CUDA C++ kernels without a GPU: that they compile, the launch plan, the cache of cubins, the refusals."""

import itertools
import math

import pytest
import torch

from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.nvrtc import compile as nvrtc
from nnunetv2_dsvm.ops.nvrtc import launch_plan, scan
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.scan_order import ScanOrder, atrous_orders, axis_orders, grid_orders
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings
from nnunetv2_dsvm.ops.triton.scan import backward_takes_dt, forward_takes_dt

needs_nvrtc = pytest.mark.skipif(bool(nvrtc.nvrtc_problem()), reason=nvrtc.nvrtc_problem() or "NVRTC is there")
CUDA, BF16 = torch.device("cuda"), torch.bfloat16


def _macros(warps: int) -> dict[str, int]:
    return launch_plan.macros("scan_backward", warps)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    return tmp_path / "nnunetv2_dsvm" / "kernels"


@needs_nvrtc
@pytest.mark.parametrize(
    ("capability", "warps", "raw", "walks", "of_gradient", "half"),
    [
        ((8, 0), 4, False, 0, False, False),
        ((8, 6), 3, True, 0, True, False),
        ((9, 0), 4, True, 0, False, False),
        ((9, 0), 2, False, 6, True, False),
        ((9, 0), 1, True, 0, False, True),
    ],
)
@pytest.mark.parametrize("name", launch_plan.RESIDENT)
def test_compiles(empty_cache, name, capability, warps, raw, walks, of_gradient, half):
    """The sources themselves assert that `shared_bytes` is the size of their shared memory."""
    macros = launch_plan.macros(name, warps, raw, walks, of_gradient, half and name != "scan_backward")
    assert nvrtc.cubin(name, capability, macros)[:4] == b"\x7fELF"
    assert launch_plan.shared_bytes(name, warps) <= 227 * 1024


@needs_nvrtc
def test_a_gpu_without_the_instructions_is_refused_with_the_compilers_words(empty_cache):
    with pytest.raises(nvrtc.CompileError, match="scan_backward.cu"):
        nvrtc.cubin("scan_backward", (7, 5), _macros(4))
    assert not empty_cache.exists()


@needs_nvrtc
def test_a_wrong_size_of_shared_memory_is_refused(empty_cache):
    with pytest.raises(nvrtc.CompileError, match="shared memory"):
        nvrtc.cubin("scan_backward", (9, 0), _macros(4) | {"SHARED_BYTES": 16})


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def fake(name, source, options):
        calls.append(options)
        return f"cubin {len(calls)}".encode()

    monkeypatch.setattr(nvrtc, "compiled", fake)
    monkeypatch.setattr(nvrtc, "nvrtc_version", lambda: (13, 0))
    return calls


def test_a_kernel_is_compiled_once(empty_cache, counted):
    first = nvrtc.cubin("scan_backward", (9, 0), _macros(4))
    assert nvrtc.cubin("scan_backward", (9, 0), _macros(4)) == first and len(counted) == 1
    assert len(list(empty_cache.iterdir())) == 1


def test_another_gpu_size_compiler_or_source_is_another_kernel(empty_cache, counted, monkeypatch, tmp_path):
    nvrtc.cubin("scan_backward", (9, 0), _macros(4))
    nvrtc.cubin("scan_backward", (10, 0), _macros(4))
    nvrtc.cubin("scan_backward", (9, 0), _macros(2))
    monkeypatch.setattr(nvrtc, "nvrtc_version", lambda: (13, 1))
    nvrtc.cubin("scan_backward", (9, 0), _macros(4))
    sources = tmp_path / "sources"
    sources.mkdir()
    for name in (*nvrtc.COMMON, "scan_backward.cu"):
        (sources / name).write_text((nvrtc.SOURCES / name).read_text() + "\n")
    monkeypatch.setattr(nvrtc, "SOURCES", sources)
    nvrtc.cubin("scan_backward", (9, 0), _macros(4))
    assert len(counted) == 5 == len(list(empty_cache.iterdir()))


def test_without_a_writable_home_it_compiles_for_itself(tmp_path, counted, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "file"))
    assert nvrtc.cubin("scan_backward", (9, 0), _macros(4)) == b"cubin 1"


@pytest.mark.parametrize("length", [1, 32, 33, 4096, 16384, 262144])
@pytest.mark.parametrize("channels", [8, 40, 192, 1000, 1536])
@pytest.mark.parametrize("batch", [1, 12, 40])
@pytest.mark.parametrize("name", ["scan_forward", "scan_backward"])
def test_the_plan_covers_all_channels_and_tokens(name, batch, channels, length):
    p = launch_plan.plan(name, batch, length, channels, 132)
    assert (p.blocks - 1) * p.warps * 16 < channels <= p.blocks * p.warps * 16
    chunk_length = p.chunk_intervals * launch_plan.INTERVAL
    assert (p.chunks - 1) * chunk_length < length <= p.chunks * chunk_length
    assert p.chunks == 1 or p.chunk_intervals >= 4 or length < 8 * launch_plan.INTERVAL


def test_a_multiprocessor_has_room_for_the_blocks_that_make_entering_states():
    for warps in launch_plan.CHUNK_WARPS:
        blocks = launch_plan.RESIDENT["scan_chunks"] // warps
        assert blocks * (launch_plan.shared_bytes("scan_chunks", warps) + 1024) <= 228 * 1024


def test_the_plan_fills_the_gpu():
    """32 images at stage 1 are 128 blocks of the backward: a wave of an H100. 12 larger ones are cut into chunks."""
    assert launch_plan.plan("scan_backward", 32, 4096, 192, 132)[:3] == (12, 1, 1)
    assert launch_plan.plan("scan_backward", 2, 16384, 384, 132)[:4] == (
        12,
        2,
        8,
        64,
    )  # 57 chunks fill it little better
    few = launch_plan.plan("scan_backward", 12, 16384, 192, 132)
    assert few.chunks > 1 and 0.9 <= 12 * 4 * few.blocks * few.chunks / 132 / math.ceil(12 * 4 * few.chunks / 132) <= 1


@pytest.fixture(autouse=True)
def not_turned_off(monkeypatch):
    monkeypatch.delenv(scan.VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((CUDA, torch.float16, 16, 64, True), "float16 without a backward, not torch.float16 with one"),
        ((CUDA, torch.float32, 16, 64, False), "takes bfloat16, or float16 without a backward, not torch.float32"),
        ((CUDA, BF16, 8, 64, True), "d_state 16, not 8"),
        ((CUDA, BF16, 16, 36, True), "multiple of 8 channels, not 36"),
        ((torch.device("cpu"), BF16, 16, 64, True), "NVIDIA GPUs, not on cpu"),
    ],
)
def test_refuses_with_the_reason(arguments, reason):
    supported, why = scan.supports(*arguments)
    assert not supported and reason in why


@pytest.fixture
def hopper(monkeypatch):
    """As if an H100 were there, whose kernel cannot be loaded here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda index: torch.no_grad())
    monkeypatch.setattr(scan, "nvrtc_problem", lambda: "")
    monkeypatch.setattr(scan, "nvrtc_version", lambda: (13, 0))
    monkeypatch.setattr(scan, "load_kernel", lambda *_: None)
    scan.gpu_problem.cache_clear()
    yield monkeypatch
    scan.gpu_problem.cache_clear()


def saved_states(shape: ScanShape, dtype: torch.dtype) -> tuple[tuple[int, ...], torch.dtype]:
    """The size and type of what forward saves on a GPU, which is not there."""

    class Like:
        device = CUDA

        def new_empty(self, size, dtype):
            return torch.empty(size, dtype=dtype, device="meta")

    saved = Triton().saved_states(shape, dtype, Like())
    return tuple(saved.shape), saved.dtype


def test_forward_saves_for_the_kernel_that_backward_will_use(hopper):
    """The same bytes: bfloat16 twice as often."""
    shape = ScanShape.of_grid(2, (16, 16), 64)
    assert saved_states(shape, BF16) == ((2, 4, 8, 16, 64), BF16)
    for dtype in (torch.float32, torch.float16):
        assert saved_states(shape, dtype) == ((2, 4, 4, 16, 64), torch.float32)
    assert saved_states(shape._replace(d_state=8), BF16)[1] == torch.float32


def test_delta_is_made_in_the_kernel_in_one_chunk_and_in_several(hopper):
    settings = LaunchSettings(processors=132)
    one, several = (LaunchPlan(ScanShape.of_grid(*s, 192), CUDA, settings) for s in ((32, (64, 64)), (12, (128, 128))))
    bf16, fp32 = (torch.empty(0, dtype=dtype) for dtype in (BF16, torch.float32))
    for plan in (one, several):
        assert all(forward_takes_dt(plan, BF16, save) for save in (False, True))
        assert forward_takes_dt(plan, torch.float16, save=False) and not forward_takes_dt(
            plan, torch.float16, save=True
        )
    assert backward_takes_dt(bf16, one.shape) and not backward_takes_dt(fp32, one.shape)
    assert backward_takes_dt(fp32, one.shape._replace(d_state=1))


OTHER_GRIDS = {
    "volume": ScanShape.of_grid(2, (4, 4, 4), 64),
    "one order": ScanShape(2, (64,), 64, 16, 1, (ScanOrder((0,)),)),
    "orders of an image": ScanShape(2, (8, 8), 64, 16, 2, axis_orders(2)[:2]),
}


@pytest.mark.parametrize("name", OTHER_GRIDS)
def test_other_grids_are_the_kernels_unless_turned_off(hopper, name):
    assert saved_states(OTHER_GRIDS[name], BF16)[1] == BF16
    hopper.setenv(scan.VARIABLE, "0")
    assert saved_states(OTHER_GRIDS[name], BF16)[1] == torch.float32


@pytest.mark.parametrize(
    "shape",
    [ScanShape(2, (8, 8), 64, 16, 4, atrous_orders(2, 2)), ScanShape(2, (8, 8), 64, 16, 12, 3 * axis_orders(2))],
    ids=["atrous", "too many"],
)
def test_orders_that_the_kernels_do_not_walk_are_left_to_triton(hopper, shape):
    assert saved_states(shape, BF16)[1] == torch.float32


@pytest.mark.parametrize(
    ("sizes", "orders"),
    [((3, 4, 5), None), ((6,), None), ((2, 5), axis_orders(2)), ((2, 3, 4), (ScanOrder((2, 0, 1), reverse=True),))],
    ids=str,
)
def test_the_numbers_of_a_grid_walk_it(sizes, orders):
    """As the kernel's `row_of` goes; it runs in test_nvrtc_emulated.py."""
    numbers = iter(launch_plan.grid_numbers(sizes, orders))
    for tokens in grid_orders(sizes, orders=orders):
        line, lines, first, step, to_line, to_slab = itertools.islice(numbers, 6)
        rows = [
            first + t % line * step + t // line % lines * to_line + t // (line * lines) * to_slab
            for t in range(len(tokens))
        ]
        assert rows == tokens.tolist()
    assert list(numbers) == []


def _raises(error):
    def kernel(*_):
        raise error

    return kernel


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("nvrtc_problem", lambda: "NVRTC of CUDA 13.0 was not found", "was not found"),
        ("load_kernel", _raises(nvrtc.CompileError("NVRTC cannot compile\nlog")), "cannot compile"),
        ("load_kernel", _raises(OSError("libcuda.so.1")), "libcuda.so.1"),
    ],
)
def test_what_fails_on_the_gpu_is_a_reason_and_the_triton_kernels_go_on(hopper, name, value, reason):
    hopper.setattr(scan, name, value)
    supported, why = scan.supports(CUDA, BF16, 16, 64, True)
    assert not supported and reason in why and "\n" not in why
    assert saved_states(ScanShape.of_grid(1, (8, 8), 64), BF16)[1] == torch.float32


@pytest.mark.parametrize(
    ("capability", "variable", "reason"),
    [
        ((9, 0), None, "CUDA C++ by NVRTC 13.0"),
        ((9, 0), "", "CUDA C++ by NVRTC 13.0"),
        ((9, 0), "0", "NNUNETV2_DSVM_NVRTC=0 turns it off"),
        ((8, 0), "1", "this GPU has 8.0"),
        ((10, 0), None, "not measured on compute capability 10.0; NNUNETV2_DSVM_NVRTC=1 uses it there"),
        ((10, 0), "1", "CUDA C++ by NVRTC 13.0"),
    ],
)
def test_it_is_used_where_it_was_measured_unless_turned_off(hopper, capability, variable, reason):
    hopper.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    if variable is not None:
        hopper.setenv("NNUNETV2_DSVM_NVRTC", variable)
    used, why = scan.supports(CUDA, BF16, 16, 64, True)
    assert used == reason.startswith("CUDA C++") and reason in why
    told = scan.in_words(CUDA)
    assert told.startswith("; CUDA C++ by NVRTC in bfloat16") if used else reason in told
