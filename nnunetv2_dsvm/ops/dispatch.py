"""Which backend can run a call of the scan, and why the others cannot."""

import logging
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backends import mamba_ssm, reference, torch_chunked
from nnunetv2_dsvm.ops.triton import launch

logger = logging.getLogger(__name__)

# Fastest first. A backend is a module with
#   supports(device, dtype, d_state) -> (bool, reason),
#   forward(x, dt, A, B, C, D, dt_bias, height, width) -> y, and
#   backward(grad, x, dt, A, B, C, D, dt_bias, height, width) -> the seven gradients.
BACKENDS: dict[str, ModuleType] = {
    "triton": launch,
    "mamba_ssm": mamba_ssm,
    "torch_chunked": torch_chunked,
}

# The reference is for checking, is differentiated by autograd, and is taken only when asked for by name.
BACKEND_NAMES: tuple[str, ...] = (*BACKENDS, "reference")


def backend_report(
    device: torch.device | str, dtype: torch.dtype = torch.float32, d_state: int = 16
) -> dict[str, tuple[bool, str]]:
    """For each backend, fastest first, whether it can run such a call, and a reason that a user can read."""
    modules = {**BACKENDS, "reference": reference}
    return {name: module.supports(torch.device(device), dtype, d_state) for name, module in modules.items()}


def select_backend(
    backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32, d_state: int = 16
) -> str:
    """The name of the backend that runs a call.

    Args:
        backend: `"auto"`, the fastest that supports the call, or a name of `BACKEND_NAMES`, which is never replaced.
        device, dtype: of x.
        d_state: states per channel, N.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: a backend asked for by name cannot run the call; the message says why.
    """
    report = backend_report(device, dtype, d_state)
    if backend == "auto":
        name = next(name for name, (supported, _) in report.items() if supported)
        faster = list(report.items())[: list(report).index(name)]
        _announce(name, torch.device(device).type, tuple((other, why) for other, (_, why) in faster))
        return name
    if backend not in report:
        raise ValueError(f"unknown scan backend {backend!r}; choose 'auto' or one of {', '.join(report)}")
    supported, reason = report[backend]
    if not supported:
        raise RuntimeError(
            f"scan backend {backend!r} cannot run on {device} with {dtype} and d_state {d_state}: {reason}. "
            f"Choose 'auto' to take the fastest backend that can."
        )
    return backend


def saves_for_backward(*tensors: Tensor) -> bool:
    """Whether a backward may follow a call on these inputs; in a trace it may, which runs with and without autograd."""
    return torch.jit.is_tracing() or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


@lru_cache(maxsize=32)  # once per situation, not per call
def _announce(name: str, device_type: str, refused: tuple[tuple[str, str], ...]) -> None:
    reasons = "; ".join(f"not {other}: {reason}" for other, reason in refused)
    # Falling back on a GPU costs the user a lot of time and must be seen; on a CPU it is what to expect.
    level = logging.WARNING if device_type != "cpu" and refused else logging.INFO
    logger.log(level, "selective scan on %s: backend %s%s", device_type, name, f" ({reasons})" if reasons else "")
