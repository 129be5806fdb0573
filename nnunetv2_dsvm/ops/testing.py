"""Is a scan right? Inputs, errors and tolerances for the doctor, the benchmark and the tests."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.dispatch import BACKENDS
from nnunetv2_dsvm.ops.fused_core import scan_core, uses_core
from nnunetv2_dsvm.ops.projections import split
from nnunetv2_dsvm.ops.scan import selective_scan
from nnunetv2_dsvm.ops.scan_inputs import ScanInputs, ScanShape

# Of the scan, whose arithmetic is fp32 whatever its inputs are.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# Of anything with matrix products under autocast, which round in 16 bit as well.
AUTOCAST_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

INPUT_NAMES = ScanInputs._fields[:7]


# One token an image, odd sizes, sizes that differ, a volume.
CHECK_SHAPES = (
    ScanShape.of_grid(2, (5, 7), 12),
    ScanShape.of_grid(2, (1, 1), 8),
    ScanShape.of_grid(3, (12, 9), 40),
    ScanShape.of_grid(2, (3, 2, 5), 12),
)
_PROJECTED_SHAPES = tuple(ScanShape.of_grid(2, sizes, 64) for sizes in ((6, 5), (1, 1), (3, 2, 4)))


class WrongResult(RuntimeError):
    """A result differs from the reference by more than its tolerance."""


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected|| in fp64; infinity when anything is not finite."""
    if "mps" in (actual.device.type, expected.device.type):  # has no fp64
        actual, expected = actual.cpu(), expected.cpu()
    actual, expected = actual.detach().to(expected.device).double(), expected.detach().double()
    error = torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected).clamp_min(1e-30)
    return error.item() if torch.isfinite(error) else float("inf")


def compare(
    what: str, names: Sequence[str], actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float
) -> float:
    """The largest relative L2 error of some tensors.

    Args:
        what: they are results of, for the message.
        names: of the tensors.
        actual, expected: the tensors, in the same order.
        tolerance: the largest error that is right.

    Raises:
        WrongResult: an error is above the tolerance.
    """
    errors = {n: relative_l2(a, e) for n, a, e in zip(names, actual, expected, strict=True)}
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= tolerance:
        raise WrongResult(
            f"{what}: relative L2 error {errors[worst]:.1e} of {worst} against the reference in float64, "
            f"at most {tolerance:.0e} is right"
        )
    return errors[worst]


def oracle_device(oracle: str, device: torch.device) -> torch.device:
    """Where what is expected is computed: a loop is no slower on the CPU, and only CUDA and the CPU have float64."""
    return device if not BACKENDS[oracle].definition and device.type == "cuda" else torch.device("cpu")


def random_inputs(shape: ScanShape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> tuple[Tensor, ...]:
    """x, dt, A, B, C, D, dt_bias as `selective_scan` takes them, distributed as in a network at its initialisation.

    A, D and dt_bias are float32 for the 16-bit types. Drawn on the CPU, so that every device gets the same numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = (shape.batch, shape.length)
    channels = (shape.directions, shape.d_inner)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    step = torch.exp(torch.empty(channels).uniform_(-6.9, -2.3, generator=generator))  # 1e-3 … 1e-1
    decay_rates = torch.arange(1, shape.d_state + 1) * torch.exp(0.1 * normal(*channels, shape.d_state))
    per_token = (
        normal(*tokens, shape.d_inner),
        0.5 * normal(*tokens, shape.directions, shape.d_inner),
        normal(*tokens, shape.directions, shape.d_state),
        normal(*tokens, shape.directions, shape.d_state),
    )
    parameters = (-decay_rates, 1 + 0.1 * normal(*channels), torch.log(torch.expm1(step)))
    wide = torch.promote_types(dtype, torch.float32)
    x, dt, B, C = (t.to(device, dtype) for t in per_token)
    A, D, dt_bias = (t.to(device, wide) for t in parameters)
    return x, dt, A, B, C, D, dt_bias


def _scan_with_gradients(inputs: Sequence[Tensor], shape: ScanShape, grad: Tensor, backend: str) -> list[Tensor]:
    inputs = [t.detach().requires_grad_() for t in inputs]
    x, dt, A, B, C, D, dt_bias = inputs
    y = selective_scan(x, dt, A, B, C, D, dt_bias, sizes=shape.sizes, orders=shape.orders, backend=backend)
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
    where = oracle_device(oracle, device)
    wide = [t.detach().to(where).double() for t in inputs]
    expected = _scan_with_gradients(wide, shape, grad.to(where), oracle)
    names = ["output", *(f"gradient of {n}" for n in INPUT_NAMES)]
    return compare(f"scan backend {backend} on {shape}", names, actual, expected, TOLERANCE[dtype])


def check_scan_on_small_shapes(backend: str, dtype: torch.dtype, device: torch.device, d_state: int) -> float:
    """`check_scan` on `CHECK_SHAPES`: the largest relative L2 error; raises WrongResult as it does."""
    return max(check_scan(backend, shape._replace(d_state=d_state), dtype, device) for shape in CHECK_SHAPES)


def _projected_scan(inputs: Sequence[Tensor], shape: ScanShape, grad: Tensor, backend: str) -> list[Tensor]:
    """The output and the gradients of `inputs`: x, the projections' matrix, A, D and dt_bias."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    x, weight, A, D, dt_bias = inputs
    if uses_core(backend, x.device, x.dtype, shape.d_state, len(shape.sizes)):
        y = scan_core(x, weight, A, D, dt_bias, sizes=shape.sizes, backend=backend)
    else:
        dt, B, C = split(F.linear(x, weight.to(x.dtype)), shape.d_inner, shape.d_state)
        y = selective_scan(x, dt, A, B, C, D, dt_bias, sizes=shape.sizes, backend=backend)
    return [y, *torch.autograd.grad(y, inputs, grad.to(y))]


def check_projected_scan(backend: str, dtype: torch.dtype, device: torch.device, d_state: int) -> float:
    """The scan of a small image and volume with the projections of dt, B and C, which a backend may compute itself.

    Returns:
        The largest relative L2 error of the output and of the gradients of x, the projections, A, D and dt_bias.

    Raises:
        WrongResult: it is above `AUTOCAST_TOLERANCE`.
    """
    shapes = (shape._replace(d_state=d_state) for shape in _PROJECTED_SHAPES)
    return max(_check_projected_scan(backend, shape, dtype, device) for shape in shapes)


def _check_projected_scan(backend: str, shape: ScanShape, dtype: torch.dtype, device: torch.device) -> float:
    x, _, A, _, _, D, dt_bias = random_inputs(shape, dtype, device)
    generator = torch.Generator().manual_seed(2)
    rows = shape.directions * (shape.d_inner + 2 * shape.d_state)
    weight = (torch.randn(rows, shape.d_inner, generator=generator) * shape.d_inner**-0.5).to(device)
    grad = torch.randn(x.shape, generator=generator).to(x)
    inputs = (x, weight, A, D, dt_bias)
    actual = _projected_scan(inputs, shape, grad, backend)
    where = oracle_device("reference", device)
    expected = _projected_scan([t.to(where).double() for t in inputs], shape, grad.to(where).double(), "reference")
    names = ["output", *(f"gradient of {n}" for n in ("x", "the projections", "A", "D", "dt_bias"))]
    return compare(f"projected scan, backend {backend} on {shape}", names, actual, expected, AUTOCAST_TOLERANCE[dtype])
