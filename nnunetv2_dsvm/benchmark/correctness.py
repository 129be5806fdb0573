"""Cores and networks against the reference in fp64: a speed is reported only for a result that is right."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.vss_block import SS2D
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.benchmark.cases.conventional import ConventionalSS2D, ConventionalVSSBlock, SequenceScan, kernel_scan
from nnunetv2_dsvm.benchmark.cases.core import CORE_PARAMETERS, CoreCase, run_core, seeded_block
from nnunetv2_dsvm.benchmark.cases.workload import DTYPES, autocast
from nnunetv2_dsvm.ops.testing import AUTOCAST_TOLERANCE, WrongResult, compare, oracle_device, relative_l2


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
    axes = len(case.tokens)
    block = seeded_block(case.dim, case.d_state, case.scan_backend, axes).to(device)
    conventional = case.implementation == "conventional"
    ss2d = ConventionalVSSBlock.like(block, scan).ss2d if conventional else block.ss2d
    size = (case.batch, *case.tokens, 2 * case.dim)
    x = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    grad = torch.randn(size, generator=torch.Generator().manual_seed(2)).to(dtype)

    def with_gradients(module: SS2D | ConventionalSS2D, x: Tensor, grad: Tensor) -> list[Tensor]:
        x = x.requires_grad_()
        y = run_core(module, x)
        return [y, *torch.autograd.grad(y, [x, *(getattr(module, n) for n in CORE_PARAMETERS)], grad.to(y))]

    with autocast(device, dtype):
        actual = with_gradients(ss2d, x.to(device), grad.to(device))
    where = oracle_device(oracle, device)
    expected = with_gradients(
        seeded_block(case.dim, case.d_state, oracle, axes).ss2d.to(where, torch.float64),
        x.to(where, torch.float64),
        grad.to(where, torch.float64),
    )
    names = ["output", *(f"gradient of {n}" for n in ("x", *CORE_PARAMETERS))]
    what = f"SS2D core, {case.implementation}, {'×'.join(map(str, size))}"
    return compare(what, names, actual, expected, AUTOCAST_TOLERANCE[dtype])


class Expected(NamedTuple):
    """A small image or volume `(1, channels, *sizes)`, and the right logits of it in float64, on the CPU."""

    image: Tensor
    logits: Tensor


def expected_logits(reference_network: SegmentationNetwork, size: Sequence[int] | None = None) -> Expected:
    """Of a random image of `size`, by a network of ours with a scan that has been checked; it is left as it is."""
    oracle = copy.deepcopy(reference_network).double().cpu().eval()
    image = torch.randn(1, oracle.input_channels, *(size or ((40, 56) if oracle.axes == 2 else (8, 8, 16))))
    with torch.no_grad():
        return Expected(image, oracle(image.double()))


def check_network(
    network: nn.Module,
    expected: Expected,
    dtype: torch.dtype,
    device: torch.device,
    in_plain_torch: Callable[[], nn.Module] | None = None,
) -> float:
    """Compares a network's logits with those of a network of ours with the same weights in float64.

    Roundings add up to more than the tolerance in some networks, whatever computes them.

    Args:
        network: on `device`, checked under autocast for the 16-bit types.
        expected: of a network with the same weights.
        in_plain_torch: makes the same network on `device` with a scan in plain PyTorch, whose own error in `dtype` is
            what the format costs it. It is called for an error above the tolerance.

    Raises:
        WrongResult: the error is above `AUTOCAST_TOLERANCE` and, with `in_plain_torch`, above twice what the format
            costs.
    """
    image, logits = expected
    actual, tolerance, name = _logits(network, image, dtype, device), AUTOCAST_TOLERANCE[dtype], type(network).__name__
    error = relative_l2(actual, logits)
    if error <= tolerance or in_plain_torch is None:
        return compare(name, ["logits"], [actual], [logits], tolerance)
    cost = relative_l2(_logits(in_plain_torch(), image, dtype, device), logits)
    if not error <= 2 * cost < math.inf:
        raise WrongResult(
            f"{name}: relative L2 error {error:.1e} of logits against the reference in float64; at most "
            f"{tolerance:.0e} is right, or twice the {cost:.1e} of the same network in plain PyTorch and {dtype}"
        )
    return error


def _logits(network: nn.Module, image: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """In inference, under autocast for the 16-bit types; the network is left in its mode."""
    was_training = network.training
    network.eval()
    with torch.no_grad(), autocast(device, dtype), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits: Tensor = network(image.to(device))
    network.train(was_training)
    return logits


def check_compiled(what: str, eager: Tensor, compiled: Tensor, dtype: torch.dtype) -> float:
    """Compares a compiled network's logits, or loss, with those of the same network run eagerly, at the measured shape.

    Raises:
        WrongResult: the error is above `AUTOCAST_TOLERANCE`.
    """
    return compare("compiled network", [what], [compiled], [eager], AUTOCAST_TOLERANCE[dtype])
