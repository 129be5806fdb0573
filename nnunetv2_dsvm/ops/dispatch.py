"""Which backend runs a call of the scan or of a fused operator, and why the others cannot."""

import logging
from collections.abc import KeysView

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backend import Backend, FusedOperators, Orders
from nnunetv2_dsvm.ops.backends.mamba_ssm import MambaSSM
from nnunetv2_dsvm.ops.backends.reference import Reference
from nnunetv2_dsvm.ops.backends.torch_chunked import TorchChunked
from nnunetv2_dsvm.ops.backends.triton import Triton

logger = logging.getLogger(__name__)

# Fastest first; the last takes every call. The reference, for checking, comes behind one that does.
BACKENDS: dict[str, Backend] = {
    "triton": Triton(),
    "mamba_ssm": MambaSSM(),
    "torch_chunked": TorchChunked(),
    "reference": Reference(),
}

# A view: it has what is registered later.
BACKEND_NAMES: KeysView[str] = BACKENDS.keys()

announced: set[tuple[str, str, tuple[tuple[str, str], ...]]] = set()  # each situation is said once, not per call


def backend_report(
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    d_state: int = 16,
    axes: int = 2,
    orders: Orders = None,
) -> dict[str, tuple[bool, str]]:
    """For each backend, fastest first, whether it can run such a call, and a reason that a user can read."""
    device = torch.device(device)
    return {name: backend.supports(device, dtype, d_state, axes, orders) for name, backend in BACKENDS.items()}


def select_backend(
    backend: str,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    d_state: int = 16,
    axes: int = 2,
    orders: Orders = None,
) -> str:
    """The name of the backend that runs a call.

    Args:
        backend: `"auto"`, the fastest that supports the call, or a name of `BACKEND_NAMES`, which is never replaced.
        device, dtype: of x.
        d_state: states per channel, N.
        axes: of the token grid.
        orders: of the directions; None: two per axis.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: a backend asked for by name cannot run the call; the message says why.
    """
    device = torch.device(device)
    if backend == "auto":
        return _fastest(device, dtype, d_state, axes, orders)
    if backend not in BACKENDS:
        raise ValueError(f"unknown scan backend {backend!r}; choose 'auto' or one of {', '.join(BACKENDS)}")
    supported, reason = BACKENDS[backend].supports(device, dtype, d_state, axes, orders)
    if not supported:
        raise RuntimeError(
            f"scan backend {backend!r} cannot run on {device} with {dtype} and d_state {d_state}: {reason}. "
            f"Choose 'auto' to take the fastest backend that can."
        )
    return backend


def _fastest(device: torch.device, dtype: torch.dtype, d_state: int, axes: int, orders: Orders) -> str:
    refused: list[tuple[str, str]] = []
    for name, candidate in BACKENDS.items():
        supported, reason = candidate.supports(device, dtype, d_state, axes, orders)
        if supported:
            _announce(name, device.type, tuple(refused))
            return name
        refused.append((name, reason))
    raise RuntimeError(f"no scan backend runs on {device}: {'; '.join(f'{n}: {why}' for n, why in refused)}")


@torch.compiler.assume_constant_result
def fused_backend(device: torch.device, dtype: torch.dtype) -> str | None:
    """The fastest backend whose fused operators take such tensors, or None: the operators of torch take them."""
    for name, backend in BACKENDS.items():
        if backend.fused is not None and backend.supports(device, dtype, 1, 2)[0]:
            return name
    return None


def common_backend(*tensors: Tensor) -> str | None:
    """The `fused_backend` of all of them, which are on one device; None where there is no such."""
    if len({t.device for t in tensors}) > 1:
        return None
    names = {fused_backend(t.device, t.dtype) for t in tensors}
    return names.pop() if len(names) == 1 else None


def required_backend(*maps: Tensor) -> str:
    """The `common_backend` of maps whose operator has been asked whether it supports them; raises RuntimeError."""
    backend = common_backend(*maps)
    if backend is None:
        devices = " and ".join(str(t.device) for t in maps)
        raise RuntimeError(f"no fused operator takes maps on {devices}: ask `supports` first")
    return backend


def fused_operators(name: str) -> FusedOperators:
    """Those of a backend; raises RuntimeError if it has none."""
    fused = BACKENDS[name].fused
    if fused is None:
        raise RuntimeError(f"scan backend {name!r} has no fused operators")
    return fused


def saves_for_backward(*tensors: Tensor) -> bool:
    """Whether a backward may follow a call on these inputs; in a trace it may, which runs with and without autograd."""
    return torch.jit.is_tracing() or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def _announce(name: str, device_type: str, refused: tuple[tuple[str, str], ...]) -> None:
    situation = (name, device_type, refused)
    if situation in announced:
        return
    announced.add(situation)
    reasons = "; ".join(f"not {other}: {reason}" for other, reason in refused)
    # Falling back on a GPU costs the user a lot of time and must be seen; on a CPU it is what to expect.
    level = logging.WARNING if device_type != "cpu" and refused else logging.INFO
    logger.log(level, "selective scan on %s: backend %s%s", device_type, name, f" ({reasons})" if reasons else "")
