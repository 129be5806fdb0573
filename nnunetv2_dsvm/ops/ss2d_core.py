"""SS2D from the activated convolution to the merged sum: projections and scan as one differentiable operator.

For the fused kernels only. One matrix product gives dt, B and C of all directions, and the kernels read them where it
left them. Backward keeps the input and the scan's sparse states, and computes the product again.
"""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops import triton_ss2d
from nnunetv2_dsvm.ops.dispatch import saves_for_backward, select_backend
from nnunetv2_dsvm.ops.on_device import on_its_device
from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS


def ss2d_core(x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, *, height: int, width: int) -> Tensor:
    """The scan of x with its input-dependent parameters `x @ weight.T`.

    Args:
        x: `(batch, L, d_inner)`, L = height * width.
        weight: `(K * (d_inner + 2 N), d_inner)`: the rows of dt of all K = 4 directions, then B and C of each.
        A, D, dt_bias: as in `ss2d_scan`; fp32.
        height, width: of the token grid.

    Returns:
        `(batch, L, d_inner)` in x's dtype; fp32 for fp16 inputs, whose range the sum over states can exceed.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    save = saves_for_backward(x, weight, A, D, dt_bias)
    return _core(x, weight, A, D, dt_bias, height, width, save)[0]


@torch.compiler.assume_constant_result
def uses_core(backend: str, device: torch.device, dtype: torch.dtype, d_state: int) -> bool:
    """Whether `backend`, which may be `"auto"`, means the fused kernels for such a call; raises as `select_backend`."""
    return select_backend(backend, device, dtype, d_state) == "triton"


def output_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of y, for x of `dtype`."""
    return torch.float32 if dtype == torch.float16 else dtype


def _parameters(
    problem: triton_ss2d.Problem, kernel: str, x: Tensor, weight: Tensor, dt_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """delta, B and C of all directions: views into one matrix product, softplus in place where `kernel` has none."""
    p = problem
    product = torch.mm(x.view(-1, p.channels), weight.t()).view(p.batch, p.length, -1)
    dt, B, C = split(product, p.channels, p.d_state)
    if p.takes_dt(kernel, x.dtype):
        return dt, B, C
    delta = dt if x.dtype == torch.float32 else dt.view(triton_ss2d.delta_dtype(x.dtype))
    return triton_ss2d.softplus(dt, dt_bias, delta), B, C


def split(product: Tensor, channels: int, d_state: int) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of dt `(batch, L, K, channels)`, B and C `(batch, L, K, N)`."""
    dt = product[..., : NUM_DIRECTIONS * channels].unflatten(-1, (NUM_DIRECTIONS, channels))
    B, C = product[..., NUM_DIRECTIONS * channels :].unflatten(-1, (NUM_DIRECTIONS, 2, d_state)).unbind(-2)
    return dt, B, C


def core_forward(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, height: int, width: int, save: bool
) -> tuple[Tensor, Tensor | None]:
    """y, and with `save` the sparse states that `core_backward` starts from."""
    problem = triton_ss2d.Problem(x.shape[0], height, width, x.shape[2], A.shape[2], x.device)
    x, A, dt_bias = x.contiguous(), A.contiguous(), dt_bias.contiguous()
    delta, B, C = _parameters(problem, "scan_forward", x, weight.to(x.dtype), dt_bias)
    dtype = output_dtype(x.dtype)
    parts, boundary = triton_ss2d.scan_forward(problem, x, delta, A, B, C, dt_bias, save, dtype)
    return triton_ss2d.merge(parts, x, D.sum(0), dtype)[0], boundary


def core_backward(
    grad: Tensor, boundary: Tensor, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    height: int, width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, weight, A, D and dt_bias from `grad`, that of y."""
    problem = triton_ss2d.Problem(x.shape[0], height, width, x.shape[2], A.shape[2], x.device)
    grad, x, A, dt_bias = grad.contiguous(), x.contiguous(), A.contiguous(), dt_bias.contiguous()
    matrix = weight.to(x.dtype)
    delta, B, C = _parameters(problem, "scan_backward", x, matrix, dt_bias)
    grad_product = x.new_empty(*x.shape[:2], weight.shape[0])
    grad_dt, grad_B, grad_C = split(grad_product, problem.channels, problem.d_state)
    g = triton_ss2d.scan_backward(problem, grad, x, delta, A, B, C, dt_bias, boundary, grad_dt, grad_B, grad_C)
    grad_x, grad_D = triton_ss2d.merge(g.x, grad, D.sum(0), x.dtype, other=x)
    columns = grad_product.flatten(0, 1)
    grad_x = torch.addmm(grad_x.flatten(0, 1), columns, matrix).view_as(x)
    grad_weight = torch.mm(columns.t(), x.flatten(0, 1)).to(weight.dtype)
    return grad_x, grad_weight, g.A.contiguous(), grad_D.expand_as(D).contiguous(), g.dt_bias


def boundary_of(image: Tensor, channels: int, d_state: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor like the states saved for `image` `(B, H, W, …)` and a scan in `dtype`."""
    problem = triton_ss2d.Problem(*image.shape[:3], channels, d_state, image.device)
    return problem.saved(dtype).empty(image)


@torch.library.custom_op("nnunetv2_dsvm::ss2d_core", mutates_args=())
@on_its_device
def _core(
    x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, height: int, width: int, save: bool
) -> tuple[Tensor, Tensor]:
    y, boundary = core_forward(x, weight, A, D, dt_bias, height, width, save)
    return y, x.new_empty(0) if boundary is None else boundary


@torch.library.custom_op("nnunetv2_dsvm::ss2d_core_backward", mutates_args=())
@on_its_device
def _core_backward(
    grad: Tensor, boundary: Tensor, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    height: int, width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return core_backward(grad, boundary, x, weight, A, D, dt_bias, height, width)


@_core.register_fake
def _(x, weight, A, D, dt_bias, height, width, save):
    image = x.unflatten(1, (height, width))
    boundary = boundary_of(image, x.shape[2], A.shape[2], x.dtype) if save else x.new_empty(0)
    return x.new_empty(x.shape, dtype=output_dtype(x.dtype)), boundary


@_core_backward.register_fake
def _(grad, boundary, x, weight, A, D, dt_bias, height, width):
    return tuple(t.new_empty(t.shape) for t in (x, weight, A, D, dt_bias))


def _setup_context(ctx, inputs, output) -> None:
    x, weight, A, D, dt_bias, ctx.height, ctx.width, _ = inputs
    ctx.save_for_backward(output[1], x, weight, A, D, dt_bias)
    ctx.set_materialize_grads(False)  # the states get none: no zeros as large as they are
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _):
    grads = _core_backward(grad, *ctx.saved_tensors, ctx.height, ctx.width)
    return *grads, None, None, None


_core.register_autograd(_backward, setup_context=_setup_context)
