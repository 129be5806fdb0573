"""The matrix product that gives a scan's dt, B and C at once: its matrix, the order of its columns, y's type."""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.device import autocast_dtype, on_its_device
from nnunetv2_dsvm.ops.side_branch import fork, later, product


def split(product: Tensor, channels: int, d_state: int) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of dt `(batch, L, K, channels)`, B and C `(batch, L, K, N)`: views.

    Args:
        product: `(batch, L, K * (channels + 2 N))`: dt of all K directions, then B and C of each.
        channels, d_state: of the scan, d_inner and N.
    """
    directions = product.shape[-1] // (channels + 2 * d_state)
    dt = product[..., : directions * channels].unflatten(-1, (directions, channels))
    B, C = product[..., directions * channels :].unflatten(-1, (directions, 2, d_state)).unbind(-2)
    return dt, B, C


def output_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of y for x of `dtype`: fp32 for fp16 inputs, whose range the sum over states can exceed."""
    return torch.float32 if dtype == torch.float16 else dtype


def scan_weights(x_proj: Tensor, dt_proj: Tensor, A_log: Tensor) -> tuple[Tensor, Tensor]:
    """What `fused_core.scan_core` takes as `weight` and A.

    The matrix gives dt, B and C of all directions at once; dt's two factors are multiplied beforehand. The product has
    more operations than its factors one after the other, but is what tensor cores are good at; the factors' rank of
    6 … 48 is not. Under autocast it is made in autocast's type, as a product with a factor would.

    Args:
        x_proj: `(K, rank + 2 N, d_inner)`: the rows of dt's low-rank factor, of B and of C.
        dt_proj: `(K, d_inner, rank)`.
        A_log: `(K, d_inner, N)`, fp32.

    Returns:
        The matrix `(K * (d_inner + 2 N), d_inner)`, in autocast's type, without autocast in that of x_proj; and
        A = -exp(A_log).
    """
    return _scan_weights(x_proj, dt_proj, A_log, autocast_dtype(x_proj))


def _of_dt_and_states(matrix: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """The rows of dt `(K, d_inner, d_inner)`, and of B and C `(K, 2 N, d_inner)`: views."""
    of_dt = matrix[: directions * matrix.shape[1]].unflatten(0, (directions, -1))
    return of_dt, matrix[directions * matrix.shape[1] :].unflatten(0, (directions, -1))


@torch.library.custom_op("nnunetv2_dsvm::scan_weights", mutates_args=())
@on_its_device
def _scan_weights(x_proj: Tensor, dt_proj: Tensor, A_log: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rank = dt_proj.shape[2]
    matrix, A = _empty_matrix(x_proj, dt_proj, dtype), torch.empty_like(A_log)
    of_dt, of_states = _of_dt_and_states(matrix, x_proj.shape[0])

    def compute() -> None:
        torch.bmm(dt_proj.to(dtype), x_proj[:, :rank].to(dtype), out=of_dt)
        of_states.copy_(x_proj[:, rank:])
        torch.exp(A_log, out=A).neg_()

    later(compute, matrix)
    fork(matrix.device)
    return matrix, A


@torch.library.custom_op("nnunetv2_dsvm::scan_weights_backward", mutates_args=())
@on_its_device
def _scan_weights_backward(
    grad: Tensor, grad_A: Tensor, x_proj: Tensor, dt_proj: Tensor, A: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rank, dtype = dt_proj.shape[2], grad.dtype
    grad_dt, grad_states = _of_dt_and_states(grad, x_proj.shape[0])
    grads = torch.empty_like(x_proj), torch.empty_like(dt_proj), torch.empty_like(A)

    def compute() -> None:
        product(dt_proj.to(dtype).mT, grad_dt, grads[0][:, :rank])
        product(grad_dt, x_proj[:, :rank].to(dtype).mT, grads[1])
        grads[0][:, rank:].copy_(grad_states)
        torch.mul(grad_A, A, out=grads[2])

    later(compute, grad)
    return grads


def _empty_matrix(x_proj: Tensor, dt_proj: Tensor, dtype: torch.dtype) -> Tensor:
    directions, rows, channels = x_proj.shape
    return x_proj.new_empty(directions * (channels + rows - dt_proj.shape[2]), channels, dtype=dtype)


@_scan_weights.register_fake
def _(x_proj, dt_proj, A_log, dtype):
    return _empty_matrix(x_proj, dt_proj, dtype), torch.empty_like(A_log)


@_scan_weights_backward.register_fake
def _(grad, grad_A, x_proj, dt_proj, A):
    return tuple(t.new_empty(t.shape) for t in (x_proj, dt_proj, A))


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])


def _backward(ctx, grad: Tensor, grad_A: Tensor):
    return *_scan_weights_backward(grad, grad_A, *ctx.saved_tensors), None


_scan_weights.register_autograd(_backward, setup_context=_setup_context)
