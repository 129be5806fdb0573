"""A selective scan with the projections that make it input-dependent, as one differentiable operator.

For backends with fused operators only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backend import Orders
from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import BACKENDS, fused_operators, saves_for_backward, select_backend
from nnunetv2_dsvm.ops.projections import output_dtype
from nnunetv2_dsvm.ops.scan_inputs import ScanShape, grid_sizes
from nnunetv2_dsvm.ops.scan_order import ScanOrder, as_numbers, from_numbers
from nnunetv2_dsvm.ops.side_branch import fork, wait


def ss2d_core(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    *, height: int, width: int, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """`scan_core` of an image of height * width tokens in its four directions."""
    return scan_core(x, weight, A, D, dt_bias, sizes=(height, width), backend=backend)


def scan_core(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    *, sizes: Sequence[int], orders: Sequence[ScanOrder] | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """The scan of x with its input-dependent parameters `x @ weight.T`.

    Args:
        x: `(batch, L, d_inner)`, L the product of `sizes`.
        weight: `(K * (d_inner + 2 N), d_inner)`: the rows of dt of all K directions, then B and C of each
            (`projections.split`).
        A, D, dt_bias: as in `selective_scan`; fp32.
        sizes, orders: of the token grid and the walks through it, as in `selective_scan`.
        backend: as in `selective_scan`, one that `uses_core` says yes to.

    Returns:
        `(batch, L, d_inner)` in x's dtype; fp32 for fp16 inputs, whose range the sum over states can exceed.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    save = saves_for_backward(x, weight, A, D, dt_bias)
    sizes = grid_sizes(*sizes)
    return _core(x, weight, A, D, dt_bias, sizes, as_numbers(orders, sizes), backend, save)[0]


@torch.compiler.assume_constant_result
def uses_core(
    backend: str, device: torch.device, dtype: torch.dtype, d_state: int, axes: int = 2, orders: Orders = None
) -> bool:
    """Whether `backend`, which may be `"auto"`, has fused operators for such a call; raises as `select_backend`."""
    return BACKENDS[select_backend(backend, device, dtype, d_state, axes, orders)].fused is not None


def core_shape(x: Tensor, A: Tensor, sizes: Sequence[int], orders: Sequence[int]) -> ScanShape:
    """Of the scan in a core of x `(batch, …, channels)`; `orders` as numbers (`scan_order.as_numbers`)."""
    directions, channels, d_state = A.shape
    return ScanShape(x.shape[0], tuple(sizes), channels, d_state, directions, from_numbers(orders, len(sizes)))


def core_backend(backend: str, x: Tensor, shape: ScanShape) -> str:
    """The name of the backend that runs a core of x."""
    return select_backend(backend, x.device, x.dtype, shape.d_state, len(shape.sizes), shape.orders)


@torch.library.custom_op("nnunetv2_dsvm::ss2d_core", mutates_args=())
@on_its_device
def _core(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, sizes: Sequence[int], orders: Sequence[int],
    backend: str, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y, and with `save` what backward starts from."""
    shape = core_shape(x, A, sizes, orders)
    wait(x.device)  # for the weights
    y, saved = fused_operators(core_backend(backend, x, shape)).core_forward(x, weight, A, D, dt_bias, shape, save)
    return y, x.new_empty(0) if saved is None else saved


@torch.library.custom_op("nnunetv2_dsvm::ss2d_core_backward", mutates_args=())
@on_its_device
def _core_backward(
    grad: Tensor, saved: Tensor, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    sizes: Sequence[int], orders: Sequence[int], backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    shape = core_shape(x, A, sizes, orders)
    grads = fused_operators(core_backend(backend, x, shape)).core_backward(grad, saved, x, weight, A, D, dt_bias, shape)
    fork(x.device)
    return grads


@_core.register_fake
def _(x, weight, A, D, dt_bias, sizes, orders, backend, save):
    y = x.new_empty(x.shape, dtype=output_dtype(x.dtype))
    if not save:
        return y, x.new_empty(0)
    shape = core_shape(x, A, sizes, orders)
    return y, BACKENDS[core_backend(backend, x, shape)].saved_states(shape, x.dtype, x)


@_core_backward.register_fake
def _(grad, saved, x, weight, A, D, dt_bias, sizes, orders, backend):
    return tuple(t.new_empty(t.shape) for t in (x, weight, A, D, dt_bias))


def _setup_context(ctx, inputs, output) -> None:
    x, weight, A, D, dt_bias, ctx.sizes, ctx.orders, ctx.backend, _ = inputs
    ctx.save_for_backward(output[1], x, weight, A, D, dt_bias)
    ctx.set_materialize_grads(False)  # the states get none: no zeros as large as they are
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _):
    grads = _core_backward(grad, *ctx.saved_tensors, ctx.sizes, ctx.orders, ctx.backend)
    return *grads, None, None, None, None


_core.register_autograd(_backward, setup_context=_setup_context)
