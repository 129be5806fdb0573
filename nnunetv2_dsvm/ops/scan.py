"""The public operator: one call, any backend, registered with torch.library so that torch.compile sees one node."""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backends import reference
from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import BACKENDS, saves_for_backward, select_backend
from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS
from nnunetv2_dsvm.ops.triton import launch


def ss2d_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    *, height: int, width: int, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Four-direction selective scan of an image, summed over the directions (SS2D; arXiv 2401.10166, 2402.02491).

    Everything is in raster order and channels last: the projections that give dt, B and C are pointwise and commute
    with the scan order, so no input is ever flipped or transposed by the caller. Per direction k, in its order::

        delta_t = softplus(dt_t + dt_bias),  h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t,  y_t = <C_t, h_t> + D x_t

    Args:
        x: `(batch, L, d_inner)` with L = height * width; float64, float32, float16 or bfloat16.
        dt: `(batch, L, K, d_inner)` before bias and softplus, K = 4 directions: row-major, column-major, and both
            reversed.
        A: `(K, d_inner, N)`, negative; float32 (float64 for float64 inputs).
        B, C: `(batch, L, K, N)`.
        D, dt_bias: `(K, d_inner)`, dtype as A.
        height, width: of the token grid.
        backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Returns:
        `(batch, L, d_inner)` in x's dtype. Arithmetic and the sum over directions are in fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: shapes that do not fit together, or an unknown backend.
        RuntimeError: a backend asked for by name that cannot run this call.

    Example:
        >>> import torch
        >>> x, dt = torch.randn(2, 12, 8), torch.randn(2, 12, 4, 8)
        >>> A, D, bias = -torch.rand(4, 8, 16), torch.ones(4, 8), torch.zeros(4, 8)
        >>> B, C = torch.randn(2, 12, 4, 16), torch.randn(2, 12, 4, 16)
        >>> ss2d_scan(x, dt, A, B, C, D, bias, height=3, width=4).shape
        torch.Size([2, 12, 8])
    """
    _check_shapes(x, dt, A, B, C, D, dt_bias, height, width)
    if backend == "reference":
        return reference.forward(x, dt, A, B, C, D, dt_bias, height, width)
    save = saves_for_backward(x, dt, A, B, C, D, dt_bias)
    return _ss2d(x, dt, A, B, C, D, dt_bias, height, width, backend, save)[0]


def _check_shapes(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, height: int, width: int
) -> None:
    if x.ndim != 3 or A.ndim != 3:
        raise ValueError(f"x must be (batch, L, d_inner) and A (K, d_inner, N), got {tuple(x.shape)}, {tuple(A.shape)}")
    if x.shape[0] < 1 or height < 1 or width < 1 or x.shape[1] != height * width:
        raise ValueError(
            f"x {tuple(x.shape)} must hold at least one image of height * width = {height} * {width} tokens"
        )
    batch, length, channels = x.shape
    d_state = A.shape[2]
    expected = {
        "dt": (dt, (batch, length, NUM_DIRECTIONS, channels)),
        "A": (A, (NUM_DIRECTIONS, channels, d_state)),
        "B": (B, (batch, length, NUM_DIRECTIONS, d_state)),
        "C": (C, (batch, length, NUM_DIRECTIONS, d_state)),
        "D": (D, (NUM_DIRECTIONS, channels)),
        "dt_bias": (dt_bias, (NUM_DIRECTIONS, channels)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape} for x {tuple(x.shape)}, got {tuple(tensor.shape)}")
    if not (x.is_floating_point() and all(t.is_floating_point() for t, _ in expected.values())):
        raise ValueError("the scan takes floating-point tensors only")


@torch.library.custom_op("nnunetv2_dsvm::ss2d_scan", mutates_args=())
@on_its_device
def _ss2d(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    height: int, width: int, backend: str, save: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y, and what backward is helped by (empty for backends that recompute everything)."""
    name = select_backend(backend, x.device, x.dtype, A.shape[2])
    if save and name == "triton":
        return launch.forward_saving(x, dt, A, B, C, D, dt_bias, height, width)
    return BACKENDS[name].forward(x, dt, A, B, C, D, dt_bias, height, width), x.new_empty(0)


@torch.library.custom_op("nnunetv2_dsvm::ss2d_scan_backward", mutates_args=())
@on_its_device
def _ss2d_backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor,
    height: int, width: int, backend: str, saved: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    name = select_backend(backend, x.device, x.dtype, A.shape[2])
    if name == "triton" and saved is not None:
        return launch.backward_from(saved, grad, x, dt, A, B, C, D, dt_bias, height, width)
    return BACKENDS[name].backward(grad, x, dt, A, B, C, D, dt_bias, height, width)


@_ss2d.register_fake
def _(x, dt, A, B, C, D, dt_bias, height, width, backend, save=False):
    if save and select_backend(backend, x.device, x.dtype, A.shape[2]) == "triton":
        problem = launch.Problem(x.shape[0], height, width, x.shape[2], A.shape[2], x.device)
        return x.new_empty(x.shape), problem.saved(launch.common_dtype(x, B, C)).empty(x)
    return x.new_empty(x.shape), x.new_empty(0)


@_ss2d_backward.register_fake
def _(grad, x, dt, A, B, C, D, dt_bias, height, width, backend, saved=None):
    return tuple(t.new_empty(t.shape) for t in (x, dt, A, B, C, D, dt_bias))


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.height, ctx.width, ctx.backend, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _):
    *inputs, saved = ctx.saved_tensors
    grads = _ss2d_backward(grad, *inputs, ctx.height, ctx.width, ctx.backend, saved)
    return *grads, None, None, None, None


_ss2d.register_autograd(_backward, setup_context=_setup_context)
