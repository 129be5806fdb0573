"""What the Triton backend takes, and how it plans its launches; the kernels themselves: tests/interpreted."""

import sys

import pytest
import torch

from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.triton import runtime, triton_scan
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings, scan_tile

pytest.importorskip("triton", reason="Triton has no build for this platform")
CPU = torch.device("cpu")


def test_a_cpu_is_refused_with_the_reason():
    supported, why = Triton().supports(CPU, torch.float32, 16, 2)
    assert not supported and "not on cpu" in why


def test_a_triton_that_cannot_launch_is_not_taken(monkeypatch):
    import triton

    class NoCompiler:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(triton.runtime, "driver", NoCompiler())
    runtime.driver_problem.cache_clear()
    supported, why = Triton().supports(torch.device("cuda"), torch.float32, 16, 2)
    runtime.driver_problem.cache_clear()
    assert not supported and "cannot launch kernels (Failed to find C compiler" in why


@pytest.mark.parametrize(
    ("dtype", "d_state", "axes", "reason"),
    [
        (torch.float64, 16, 2, "float64"),
        (torch.float32, 65, 2, "d_state up to 64, not 65"),
        (torch.float32, 16, 4, "grids of up to 3 axes, not of 4"),
    ],
    ids=["fp64", "d_state", "axes"],
)
def test_refuses_what_the_kernels_do_not_take(monkeypatch, dtype, d_state, axes, reason):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as if a device were there
    supported, why = Triton().supports(CPU, dtype, d_state, axes)
    assert not supported and reason in why
    assert all(Triton().supports(CPU, torch.float32, 16, axes)[0] for axes in (1, 2, 3))


@pytest.mark.parametrize("sizes", [(1, 1), (8, 8), (9, 8), (64, 64), (131, 77)], ids=str)
def test_chunks_are_whole_intervals_that_cover_the_image(sizes):
    plan = LaunchPlan(ScanShape.of_grid(1, sizes, 8), CPU, LaunchSettings(full=200))
    chunks, length = plan.chunks(plan.tile())
    assert length % plan.settings.interval == 0
    assert (chunks - 1) * length < plan.shape.length <= chunks * length


@pytest.mark.skipif(runtime.interpreted(), reason="Triton compiles nothing here")
@pytest.mark.parametrize("name", ["chunk_end_kernel", "forward_kernel", "backward_kernel"])
def test_the_scan_is_not_compiled_again_for_another_size_of_image_or_number_of_chunks(name):
    """As Triton makes the key of a compiled kernel from a call's arguments; it takes 1 to 30 seconds a kernel."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    from nnunetv2_dsvm.ops.triton.kernels import scan_backward, scan_forward

    kernel = getattr(scan_forward if hasattr(scan_forward, name) else scan_backward, name)
    bind = create_function_from_signature(kernel.signature, kernel.params, make_backend(GPUTarget("cuda", 90, 32)))

    def key(height, width, chunks, intervals, channels):
        sizes = {"height": height, "width": width, "L": height * width, "chunks": chunks, "intervals": intervals}
        sizes |= {"chunk_length": 64 * intervals // chunks, "D": channels}
        return bind(**{name: sizes.get(name, 16) for name in kernel.arg_names})[1]

    expected = key(16, 16, 1, 4, 32)
    assert key(128, 128, 16, 256, 32) == key(1, 7, 1, 1, 32) == key(11, 13, 3, 3, 32) == expected
    assert key(16, 16, 1, 4, 33) != expected  # of whose multiples 16-byte loads depend


def test_one_state_takes_the_kernels_without_chunks_where_it_fills_the_gpu(monkeypatch):
    monkeypatch.setattr(triton_scan, "device_numbers", lambda device: (132, 32))
    suits = triton_scan.OneStateScan().suits
    stage1 = ScanShape.of_grid(32, (64, 64), 192, 1)
    assert suits(stage1, CPU) and not suits(stage1._replace(d_state=2), CPU)
    assert suits(stage1._replace(batch=6), CPU) and not suits(stage1._replace(batch=5), CPU)  # 24 programs an image


@pytest.mark.skipif(runtime.interpreted() or sys.platform != "linux", reason="Triton compiles nothing here")
def test_no_value_of_the_scan_passes_through_shared_memory(tmp_path, monkeypatch):
    """Compiled for an H100: where Triton gives lanes and registers other axes than meant, values move through it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from nnunetv2_dsvm.ops.triton.kernels.scan_forward import forward_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = dict.fromkeys(("x_ptr", "delta_ptr", "b_ptr", "c_ptr"), "*fp16")
    types |= dict.fromkeys(("a_ptr", "y_ptr", "initial_state_ptr", "saved_states_ptr"), "*fp32")
    constants = {"HAS_INITIAL_STATE": True, "SAVE": True, "INTERVAL": 64, "EVEN_L": True, "STRAIGHT": True}
    constants |= {"EVEN_D": True, "EVEN_N": True, "VECTOR": True, "PACKED": True, "PACKED_STATES": True, "WIDE": False}
    constants |= {"ORDERS": None, "depth": None, "STEP": 1, "K": 4, **scan_tile(16, 32)._replace(T=1)._asdict()}
    names = forward_kernel.arg_names
    source = ASTSource(
        forward_kernel,
        {name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants and name != "one"},
    )
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    assert compiled.metadata.shared == 0
