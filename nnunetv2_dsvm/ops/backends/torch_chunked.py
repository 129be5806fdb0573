"""The selective scan in plain torch: any device, no compiler; `scan_blocks` says how.

Backward keeps the state that enters each block and recomputes the others block by block, in reverse.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backend import Backend, Orders
from nnunetv2_dsvm.ops.backends.scan_blocks import Block, Limits, ScanBlocks, token_rows
from nnunetv2_dsvm.ops.scan_inputs import ScanGradients, ScanInputs


def _sum_over_states(weights: Tensor, states: Tensor, scratch: Tensor) -> Tensor:
    """`(…, d_state, 1)` and `(…, d_state, channels)` to `(…, 1, channels)`; uses up `scratch`, of its shape."""
    if states.shape[-1] >= 64:
        return _product(weights.mT, states)
    return torch.mul(weights, states, out=scratch).sum(-2, keepdim=True)  # where products of so few rows are slow


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in their own type: autocast leaves products alone whose place is given."""
    return torch.matmul(a, b, out=a.new_empty(*a.shape[:-1], b.shape[-1]))


def _add_to_tokens(target: Tensor, tokens: Tensor, values: Tensor) -> None:
    """Adds `(n, K, G, 1, X)` to the rows of target; one direction after the other, so that the order is always one."""
    for k in range(tokens.shape[1]):
        target.index_add_(0, tokens[:, k].flatten(), values[:, k].flatten(0, 2))


def _visits_all(scan: ScanBlocks) -> bool:
    return scan.walks.shape[1] == scan.tokens


def _skip(scan: ScanBlocks, D: Tensor) -> Tensor:
    """What x is multiplied by besides the scan: the D of all directions that visit a token, for each row or for all."""
    D = D.to(scan.dtype)
    if _visits_all(scan):
        return D.sum(0)
    of_tokens = D.new_zeros(scan.tokens, D.shape[1])
    for walk, skip in zip(scan.walks, D, strict=True):
        of_tokens.index_add_(0, walk, skip.expand(len(walk), -1))
    return of_tokens.repeat(scan.batch, 1)


def _grad_skip(scan: ScanBlocks, products: Tensor) -> Tensor:
    """The gradient of D from that of each row of the result times x."""
    if _visits_all(scan):
        return products.sum(0).expand(scan.directions, -1)
    of_tokens = products.unflatten(0, (scan.batch, -1)).sum(0)
    return torch.stack([of_tokens[walk].sum(0) for walk in scan.walks])


def _initial_states(scan: ScanBlocks) -> list[Tensor]:
    """The state that enters each block, `(K, G, d_state, channels)`."""
    scan.enter()
    initial = [scan.states[0].clone()]
    for start in scan.starts[:-1]:
        scan.advance(scan.load(start))
        initial.append(scan.states[-1].clone())
        scan.states[0] = initial[-1]
    return initial


def _pass_back(scan: ScanBlocks, block: Block, gy: Tensor, dh: Tensor, grad_states: Tensor) -> None:
    """Fills `grad_states` with the gradient of the state after each step; `dh` reaches the last from later steps."""
    torch.mul(block.c, gy, out=grad_states)
    grad_states[-1] += dh
    gradients, decays = grad_states.unbind(0), scan.decay[: len(gy)].unbind(0)
    for t in range(len(gy) - 2, -1, -1):
        gradients[t].addcmul_(decays[t + 1], gradients[t + 1])


def _final_dh(scan: ScanBlocks, grad: Tensor) -> Tensor:
    """The gradient that reaches the last state of each chunk from the chunks behind it."""
    dh = torch.zeros_like(scan.states[0])
    if scan.chunks == 1:
        return dh
    total = torch.zeros_like(dh[:, :, :1])
    for start in reversed(scan.starts):
        block = scan.load(start)
        gy = scan.load_gradient(grad, block, start)
        torch.mul(block.delta, scan.A_log2, out=scan.decay[: len(gy)]).exp2_()
        _pass_back(scan, block, gy, dh, scan.states[: len(gy)])
        dh = scan.decay[0] * scan.states[0]
        total += block.delta.sum(0)
    return scan.across_chunks(dh, total, reverse=True)


class _BlockGradients(NamedTuple):
    """Of a block's inputs, in their shapes."""

    u: Tensor
    raw_dt: Tensor
    b: Tensor
    c: Tensor


def _block_backward(
    scan: ScanBlocks, block: Block, gy: Tensor, dh: Tensor, grad_states: Tensor, grad_A: Tensor
) -> _BlockGradients:
    """Adds to `grad_A`, overwrites `dh` with what reaches the block before, and uses up the scan's arrays."""
    n = len(gy)
    decay, before, after = scan.decay[:n], scan.states[:n], scan.states[1 : n + 1]
    _pass_back(scan, block, gy, dh, grad_states)
    grad_c = _product(after, gy.mT)
    grad_b = _product(grad_states, block.du.mT)
    of_exponent = decay.mul_(grad_states)
    dh.copy_(of_exponent[0])
    of_exponent.mul_(before)
    grad_du = _sum_over_states(block.b, grad_states, grad_states)
    grad_A += torch.mul(of_exponent, block.delta, out=grad_states).sum(0)
    grad_delta = of_exponent.mul_(scan.A).sum(3, keepdim=True).addcmul_(grad_du, block.u)
    return _BlockGradients(grad_du * block.delta, grad_delta * torch.sigmoid(block.raw_dt), grad_b, grad_c)


class TorchChunked(Backend):
    """The scan in plain torch.

    Args:
        limits: states that are computed together; None: those that suit the device.
    """

    plain_torch = True

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits

    def supports(
        self, device: torch.device, dtype: torch.dtype, d_state: int, axes: int, orders: Orders = None
    ) -> tuple[bool, str]:
        """Runs on every device and dtype that torch has."""
        return True, "plain torch, runs on every device"

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, None]:
        """fp32 arithmetic, fp64 for fp64 inputs; saves nothing."""
        scan = ScanBlocks(inputs, self.limits)
        y = scan.x * _skip(scan, inputs.D)
        scan.enter()
        for start in scan.starts:
            block = scan.load(start)
            scan.advance(block)
            n = len(block.u)
            _add_to_tokens(y, block.tokens, _sum_over_states(block.c, scan.states[1 : n + 1], scan.decay[:n]))
            scan.states[0] = scan.states[n]
        return y.view(inputs.x.shape).to(inputs.x.dtype), None

    def backward(self, grad: Tensor, inputs: ScanInputs, saved: Tensor | None) -> ScanGradients:
        """Block by block, in reverse."""
        scan = ScanBlocks(inputs, self.limits)
        grad = token_rows(grad).to(scan.dtype)
        directions = scan.directions
        grad_x = grad * _skip(scan, inputs.D)
        grad_D = _grad_skip(scan, grad * scan.x)
        grad_dt, grad_B, grad_C = (
            torch.zeros(scan.x.shape[0] * directions, t.shape[-1], dtype=scan.dtype, device=t.device)
            for t in (inputs.dt, inputs.B, inputs.C)
        )
        grad_bias = torch.zeros(inputs.dt_bias.shape, dtype=scan.dtype, device=grad.device)

        dh, initial_states = _final_dh(scan, grad), _initial_states(scan)
        grad_A = torch.zeros_like(dh)
        grad_states = torch.empty_like(scan.decay)
        numbers = torch.arange(directions, device=grad.device).view(-1, 1)
        for start, state in zip(reversed(scan.starts), reversed(initial_states), strict=True):
            block = scan.load(start)
            scan.states[0] = state
            scan.advance(block)
            gy = scan.load_gradient(grad, block, start)
            n = len(gy)
            gradients = _block_backward(scan, block, gy, dh, grad_states[:n], grad_A)

            _add_to_tokens(grad_x, block.tokens, gradients.u)
            rows = (block.tokens * directions + numbers).flatten()
            for target, values in ((grad_dt, gradients.raw_dt), (grad_B, gradients.b), (grad_C, gradients.c)):
                target.index_add_(0, rows, values.flatten(0, 2).flatten(1))
            grad_bias += gradients.raw_dt.sum(0).sum((1, 2))

        grads = (grad_x, grad_dt, grad_A.sum(1).mT, grad_B, grad_C, grad_D, grad_bias)
        pairs = zip(grads, inputs.tensors, strict=True)
        return ScanGradients(*(g.reshape(t.shape).to(t.dtype).contiguous() for g, t in pairs))
