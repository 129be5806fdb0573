"""A speed is reported only for a result that is right: relative L2 errors against the reference in fp64."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.benchmark.cases.conventional import ConventionalVSSBlock, SequenceScan, kernel_scan
from nnunetv2_dsvm.benchmark.cases.core import CORE_PARAMETERS, CoreCase, run_core, seeded_block
from nnunetv2_dsvm.benchmark.cases.scan import INPUT_NAMES, ScanShape, random_inputs
from nnunetv2_dsvm.benchmark.cases.workload import DTYPES, autocast
from nnunetv2_dsvm.ops import ss2d_scan

# Of the scan, whose arithmetic is fp32 whatever its inputs are.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# Of anything with matrix products under autocast, which round in 16 bit as well.
AUTOCAST_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

CHECK_SHAPES = (ScanShape(2, 5, 7, 12), ScanShape(1, 1, 1, 8), ScanShape(3, 12, 9, 40))


class WrongResult(RuntimeError):
    """A result differs from the reference by more than its tolerance."""


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected|| in fp64; infinity when anything is not finite."""
    if "mps" in (actual.device.type, expected.device.type):  # has no fp64
        actual, expected = actual.cpu(), expected.cpu()
    actual, expected = actual.detach().to(expected.device).double(), expected.detach().double()
    error = torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected).clamp_min(1e-30)
    return error.item() if torch.isfinite(error) else float("inf")


def _compare(
    what: str, names: Sequence[str], actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float
) -> float:
    """The largest error; raises WrongResult if it is above the tolerance."""
    errors = {n: relative_l2(a, e) for n, a, e in zip(names, actual, expected, strict=True)}
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= tolerance:
        raise WrongResult(
            f"{what}: relative L2 error {errors[worst]:.1e} of {worst} against the reference in float64, "
            f"at most {tolerance:.0e} is right"
        )
    return errors[worst]


def _oracle_device(oracle: str, device: torch.device) -> torch.device:
    """The loop is no slower on the CPU; only CUDA and the CPU have float64."""
    return device if oracle != "reference" and device.type == "cuda" else torch.device("cpu")


def _scan_with_gradients(inputs: Sequence[Tensor], shape: ScanShape, grad: Tensor, backend: str) -> list[Tensor]:
    inputs = [t.detach().requires_grad_() for t in inputs]
    y = ss2d_scan(*inputs, height=shape.height, width=shape.width, backend=backend)
    return [y, *torch.autograd.grad(y, inputs, grad.to(y))]


def check_scan(
    backend: str, shape: ScanShape, dtype: torch.dtype, device: torch.device, oracle: str = "reference"
) -> float:
    """Compares a backend's output and all gradients with `oracle` on the same numbers in float64.

    Args:
        backend, dtype, device: of the call that is checked.
        shape: for the reference, a small one.
        oracle: the reference, computed on the CPU; or `"torch_chunked"`, for large shapes, computed on `device`.

    Returns:
        The largest relative L2 error of the output and the seven gradients.

    Raises:
        WrongResult: it is above `TOLERANCE`.
    """
    inputs = random_inputs(shape, dtype, device)
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])
    actual = _scan_with_gradients(inputs, shape, grad, backend)
    oracle_device = _oracle_device(oracle, device)
    wide = [t.detach().to(oracle_device).double() for t in inputs]
    expected = _scan_with_gradients(wide, shape, grad.to(oracle_device), oracle)
    names = ["output", *(f"gradient of {n}" for n in INPUT_NAMES)]
    return _compare(f"scan backend {backend} on {shape}", names, actual, expected, TOLERANCE[dtype])


def check_scan_on_small_shapes(backend: str, dtype: torch.dtype, device: torch.device, d_state: int) -> float:
    """`check_scan` on `CHECK_SHAPES`: one token, odd sizes, height and width that differ."""
    shapes = [ScanShape(s.batch, s.height, s.width, s.d_inner, d_state) for s in CHECK_SHAPES]
    return max(check_scan(backend, shape, dtype, device) for shape in shapes)


def check_core(case: CoreCase, oracle: str = "reference", scan: SequenceScan = kernel_scan) -> float:
    """Compares an SS2D core, under autocast for the 16-bit types, with ours in float64.

    Args:
        case: what is checked, on its device.
        oracle: scan backend of the core in float64: the reference, computed on the CPU; or `"torch_chunked"`, for
            large shapes, computed on the case's device.
        scan: of the conventional core.

    Returns:
        The largest relative L2 error of the output and of the gradients of x and the core's parameters.

    Raises:
        WrongResult: it is above `AUTOCAST_TOLERANCE`.
    """
    device, dtype = torch.device(case.device), DTYPES[case.dtype]
    block = seeded_block(case.dim, case.d_state, case.scan_backend).to(device)
    ss2d = (ConventionalVSSBlock.like(block, scan) if case.implementation == "conventional" else block).ss2d
    size = (case.batch, case.height, case.width, 2 * case.dim)
    x = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    grad = torch.randn(size, generator=torch.Generator().manual_seed(2)).to(dtype)

    def with_gradients(module: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
        x = x.requires_grad_()
        y = run_core(module, x)
        return [y, *torch.autograd.grad(y, [x, *(getattr(module, n) for n in CORE_PARAMETERS)], grad.to(y))]

    with autocast(device, dtype):
        actual = with_gradients(ss2d, x.to(device), grad.to(device))
    oracle_device = _oracle_device(oracle, device)
    expected = with_gradients(
        seeded_block(case.dim, case.d_state, oracle).ss2d.to(oracle_device, torch.float64),
        x.to(oracle_device, torch.float64),
        grad.to(oracle_device, torch.float64),
    )
    names = ["output", *(f"gradient of {n}" for n in ("x", *CORE_PARAMETERS))]
    what = f"SS2D core, {case.implementation}, batch {case.batch}, {case.height}×{case.width}×{2 * case.dim}"
    return _compare(what, names, actual, expected, AUTOCAST_TOLERANCE[dtype])


def check_network(network: nn.Module, reference_network: nn.Module, dtype: torch.dtype, device: torch.device) -> float:
    """Compares a network's logits of a small image with those of a network of ours in float64 on the reference scan.

    Args:
        network: on `device`, checked under autocast for the 16-bit types.
        reference_network: a VMUNet built with `scan_backend="reference"` and the same weights; left as it is.

    Raises:
        WrongResult: the error is above `AUTOCAST_TOLERANCE`.
    """
    oracle = copy.deepcopy(reference_network).double().cpu().eval()
    image = torch.randn(1, oracle.encoder.patch_embedding.projection.in_channels, 40, 56)
    was_training = network.training
    network.eval()
    with torch.no_grad():
        expected = oracle(image.double())
        with autocast(device, dtype), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            actual = network(image.to(device))
    network.train(was_training)
    return _compare(type(network).__name__, ["logits"], [actual], [expected], AUTOCAST_TOLERANCE[dtype])


def check_compiled(eager: Tensor, compiled: Tensor, dtype: torch.dtype) -> float:
    """Compares a compiled network's logits with those of the same network run eagerly, at the measured shape.

    Raises:
        WrongResult: the error is above `AUTOCAST_TOLERANCE`.
    """
    return _compare("compiled network", ["logits"], [compiled], [eager], AUTOCAST_TOLERANCE[dtype])
