"""SS2D from the activated convolution to the merged sum: projections and scan as one differentiable operator.

For backends with fused operators only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import BACKENDS, fused_operators, saves_for_backward, select_backend
from nnunetv2_dsvm.ops.projections import output_dtype
from nnunetv2_dsvm.ops.scan_inputs import ScanShape, grid_sizes


def ss2d_core(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    *, height: int, width: int, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """The scan of x with its input-dependent parameters `x @ weight.T`.

    Args:
        x: `(batch, L, d_inner)`, L = height * width.
        weight: `(K * (d_inner + 2 N), d_inner)`: the rows of dt of all K directions, then B and C of each
            (`projections.split`).
        A, D, dt_bias: as in `ss2d_scan`; fp32.
        height, width: of the token grid.
        backend: as in `ss2d_scan`, one that `uses_core` says yes to.

    Returns:
        `(batch, L, d_inner)` in x's dtype; fp32 for fp16 inputs, whose range the sum over states can exceed.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    save = saves_for_backward(x, weight, A, D, dt_bias)
    return _core(x, weight, A, D, dt_bias, grid_sizes(height, width), backend, save)[0]


@torch.compiler.assume_constant_result
def uses_core(backend: str, device: torch.device, dtype: torch.dtype, d_state: int) -> bool:
    """Whether `backend`, which may be `"auto"`, has fused operators for such a call; raises as `select_backend`."""
    return BACKENDS[select_backend(backend, device, dtype, d_state)].fused is not None


def core_backend(backend: str, x: Tensor, A: Tensor) -> str:
    """The name of the backend that runs a core of x `(batch, …, channels)`."""
    return select_backend(backend, x.device, x.dtype, A.shape[2])


@torch.library.custom_op("nnunetv2_dsvm::ss2d_core", mutates_args=())
@on_its_device
def _core(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, sizes: Sequence[int], backend: str, save: bool
) -> tuple[Tensor, Tensor]:
    """y, and with `save` what backward starts from."""
    fused = fused_operators(core_backend(backend, x, A))
    y, saved = fused.core_forward(x, weight, A, D, dt_bias, tuple(sizes), save)
    return y, x.new_empty(0) if saved is None else saved


@torch.library.custom_op("nnunetv2_dsvm::ss2d_core_backward", mutates_args=())
@on_its_device
def _core_backward(
    grad: Tensor, saved: Tensor, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    sizes: Sequence[int], backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    fused = fused_operators(core_backend(backend, x, A))
    return fused.core_backward(grad, saved, x, weight, A, D, dt_bias, tuple(sizes))


@_core.register_fake
def _(x, weight, A, D, dt_bias, sizes, backend, save):
    y = x.new_empty(x.shape, dtype=output_dtype(x.dtype))
    if not save:
        return y, x.new_empty(0)
    directions, channels, d_state = A.shape
    shape = ScanShape(x.shape[0], tuple(sizes), channels, d_state, directions)
    return y, BACKENDS[core_backend(backend, x, A)].saved_states(shape, x.dtype, x)


@_core_backward.register_fake
def _(grad, saved, x, weight, A, D, dt_bias, sizes, backend):
    return tuple(t.new_empty(t.shape) for t in (x, weight, A, D, dt_bias))


def _setup_context(ctx, inputs, output) -> None:
    x, weight, A, D, dt_bias, ctx.sizes, ctx.backend, _ = inputs
    ctx.save_for_backward(output[1], x, weight, A, D, dt_bias)
    ctx.set_materialize_grads(False)  # the states get none: no zeros as large as they are
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _):
    grads = _core_backward(grad, *ctx.saved_tensors, ctx.sizes, ctx.backend)
    return *grads, None, None, None


_core.register_autograd(_backward, setup_context=_setup_context)
