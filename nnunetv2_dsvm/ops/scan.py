"""The public operator: one call, any backend, registered with torch.library so that torch.compile sees one node."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import BACKENDS, saves_for_backward, select_backend
from nnunetv2_dsvm.ops.scan_inputs import ScanInputs, grid_sizes
from nnunetv2_dsvm.ops.scan_order import ScanOrder, as_numbers, from_numbers, num_directions


def ss2d_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    *, height: int, width: int, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Four-direction selective scan of an image, summed over the directions (SS2D; arXiv 2401.10166, 2402.02491).

    `selective_scan` of a grid of height * width tokens: K = 4 directions, row-major, column-major, and both reversed.

    Examples:
        >>> import torch
        >>> x, dt = torch.randn(2, 12, 8), torch.randn(2, 12, 4, 8)
        >>> A, D, bias = -torch.rand(4, 8, 16), torch.ones(4, 8), torch.zeros(4, 8)
        >>> B, C = torch.randn(2, 12, 4, 16), torch.randn(2, 12, 4, 16)
        >>> ss2d_scan(x, dt, A, B, C, D, bias, height=3, width=4).shape
        torch.Size([2, 12, 8])
    """
    return selective_scan(x, dt, A, B, C, D, dt_bias, sizes=(height, width), backend=backend)


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    *, sizes: Sequence[int], orders: Sequence[ScanOrder] | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Selective scan of a grid in K directions, summed over them: two along each axis, or any others.

    Everything is in raster order and channels last: the projections that give dt, B and C are pointwise and commute
    with the scan order, so no input is ever flipped or transposed by the caller. Per direction k, in its order
    (`scan_order.grid_orders`)::

        delta_t = softplus(dt_t + dt_bias),  h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t,  y_t = <C_t, h_t> + D x_t

    Args:
        x: `(batch, L, d_inner)` with L the product of `sizes`; float64, float32, float16 or bfloat16.
        dt: `(batch, L, K, d_inner)` before bias and softplus, K directions.
        A: `(K, d_inner, N)`, negative; float32 (float64 for float64 inputs).
        B, C: `(batch, L, K, N)`; or `(batch, L, K, G, N)`: of G groups of d_inner / G channels, one after the other.
        D, dt_bias: `(K, d_inner)`, dtype as A.
        sizes: of the token grid, e.g. (height, width).
        orders: K walks through the grid (`ScanOrder`), all of one `step`; None: two per axis (`axis_orders`).
            One-dimensional Mamba is `sizes=(L,), orders=[ScanOrder((0,))]`.
        backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Returns:
        `(batch, L, d_inner)` in x's dtype. Arithmetic and the sum over directions are in fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: shapes that do not fit together, or an unknown backend.
        RuntimeError: a backend asked for by name that cannot run this call.
    """
    if B.ndim == 5:
        channels_of = _groups(x, dt, A, B, C, D, dt_bias)
        ys = [selective_scan(*group, sizes=sizes, orders=orders, backend=backend) for group in channels_of]
        return torch.cat(ys, dim=-1)
    sizes = grid_sizes(*sizes)
    numbers = as_numbers(orders, sizes)
    inputs = ScanInputs(x, dt, A, B, C, D, dt_bias, sizes, from_numbers(numbers, len(sizes)))
    _check_shapes(inputs)
    if backend in BACKENDS and BACKENDS[backend].definition:
        return BACKENDS[backend].forward(inputs, save=False)[0]
    return _scan(*inputs.tensors, sizes, numbers, backend, saves_for_backward(*inputs.tensors))[0]


def _groups(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor
) -> list[tuple[Tensor, ...]]:
    """The inputs of each group of channels."""
    groups = B.shape[3]
    if C.shape != B.shape or not groups or any(t.shape[-1] % groups for t in (x, dt, D, dt_bias)) or A.ndim != 3:
        raise ValueError(
            f"B and C must hold states of the same groups, whose number divides x's channels, got B {tuple(B.shape)}, "
            f"C {tuple(C.shape)}, x {tuple(x.shape)}"
        )
    by_channel = [t.chunk(groups, dim=dim) for t, dim in ((x, -1), (dt, -1), (A, 1), (D, -1), (dt_bias, -1))]
    inputs = zip(*by_channel[:3], B.unbind(3), C.unbind(3), *by_channel[3:], strict=True)
    return list(inputs)


def _check_shapes(inputs: ScanInputs) -> None:
    x, sizes = inputs.x, inputs.sizes
    if x.ndim != 3 or inputs.A.ndim != 3:
        raise ValueError(
            f"x must be (batch, L, d_inner) and A (K, d_inner, N), got {tuple(x.shape)}, {tuple(inputs.A.shape)}"
        )
    batch, length, channels = x.shape
    if batch < 1 or not sizes or min(sizes) < 1 or length != inputs.shape.length:
        raise ValueError(f"x {tuple(x.shape)} must hold at least one image of {' * '.join(map(str, sizes))} tokens")
    orders = inputs.orders or ()
    for order in orders:
        order.check(sizes)
    if len(steps := {order.step for order in orders}) > 1:
        raise ValueError(f"the orders must have one step, got {sorted(steps)}")
    directions = len(orders) or num_directions(len(sizes))
    d_state = inputs.A.shape[2]
    expected = {
        "dt": (batch, length, directions, channels),
        "A": (directions, channels, d_state),
        "B": (batch, length, directions, d_state),
        "C": (batch, length, directions, d_state),
        "D": (directions, channels),
        "dt_bias": (directions, channels),
    }
    for name, shape in expected.items():
        tensor = getattr(inputs, name)
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape} for x {tuple(x.shape)}, got {tuple(tensor.shape)}")
    if not all(t.is_floating_point() for t in inputs.tensors):
        raise ValueError("the scan takes floating-point tensors only")


def _select(backend: str, inputs: ScanInputs) -> str:
    return select_backend(backend, inputs.x.device, inputs.x.dtype, inputs.A.shape[2], len(inputs.sizes), inputs.orders)


@torch.library.custom_op("nnunetv2_dsvm::ss2d_scan", mutates_args=())
@on_its_device
def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    sizes: Sequence[int], orders: Sequence[int], backend: str, save: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y, and what backward is helped by (empty for backends that recompute everything)."""
    inputs = ScanInputs(x, dt, A, B, C, D, dt_bias, tuple(sizes), from_numbers(orders, len(sizes)))
    y, saved = BACKENDS[_select(backend, inputs)].forward(inputs, save)
    return y, x.new_empty(0) if saved is None else saved


@torch.library.custom_op("nnunetv2_dsvm::ss2d_scan_backward", mutates_args=())
@on_its_device
def _scan_backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    sizes: Sequence[int], orders: Sequence[int], backend: str, saved: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = ScanInputs(x, dt, A, B, C, D, dt_bias, tuple(sizes), from_numbers(orders, len(sizes)))
    if saved is not None and saved.numel() == 0:
        saved = None
    return BACKENDS[_select(backend, inputs)].backward(grad, inputs, saved)


@_scan.register_fake
def _(x, dt, A, B, C, D, dt_bias, sizes, orders, backend, save=False):
    if not save:
        return x.new_empty(x.shape), x.new_empty(0)
    inputs = ScanInputs(x, dt, A, B, C, D, dt_bias, tuple(sizes), from_numbers(orders, len(sizes)))
    chosen = BACKENDS[_select(backend, inputs)]
    return x.new_empty(x.shape), chosen.saved_states(inputs.shape, inputs.dtype, x)


@_scan_backward.register_fake
def _(grad, x, dt, A, B, C, D, dt_bias, sizes, orders, backend, saved=None):
    return tuple(t.new_empty(t.shape) for t in (x, dt, A, B, C, D, dt_bias))


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.sizes, ctx.orders, ctx.backend, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _):
    *inputs, saved = ctx.saved_tensors
    return *_scan_backward(grad, *inputs, ctx.sizes, ctx.orders, ctx.backend, saved), None, None, None, None


_scan.register_autograd(_backward, setup_context=_setup_context)
