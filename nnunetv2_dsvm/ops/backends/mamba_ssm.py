"""Adapter to mamba-ssm's compiled CUDA kernel (its module `selective_scan_cuda`), where that is installed.

The kernel wants one sequence per direction in layout (batch, channels, L): this backend makes the four copies that the
conventional VM-UNet makes. Its gradients of B, C, A, D and the bias are summed with atomics and so not deterministic.
"""

from functools import cached_property
from types import ModuleType

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backend import Backend, Orders
from nnunetv2_dsvm.ops.scan_inputs import ScanGradients, ScanInputs
from nnunetv2_dsvm.ops.scan_order import grid_orders

_MAX_D_STATE = 256


def _merge_directions(t: Tensor) -> Tensor:
    """(batch, K, channels, L) -> (batch, K * channels, L)."""
    return t.flatten(1, 2).contiguous()


def _kernel_inputs(inputs: ScanInputs, orders: Tensor) -> tuple[Tensor, ...]:
    """u, delta, A, B, C, D and the bias in the kernel's layout and dtypes, tokens in each direction's order."""
    x, dt, A, B, C, D, dt_bias, *_ = inputs
    steps = torch.arange(len(orders), device=x.device)[:, None]
    u = x.transpose(1, 2)[:, :, orders].transpose(1, 2)  # (batch, K, channels, L)
    delta = dt.permute(0, 2, 1, 3)[:, steps, orders].transpose(2, 3)
    b, c = (t.to(x.dtype).permute(0, 2, 1, 3)[:, steps, orders].transpose(2, 3).contiguous() for t in (B, C))
    parameters = (t.float().flatten(0, 1).contiguous() for t in (A, D, dt_bias))
    a, d, bias = parameters
    return _merge_directions(u), _merge_directions(delta.to(x.dtype)), a, b, c, d, bias


class MambaSSM(Backend):
    """mamba-ssm's kernel on four copies of x."""

    @cached_property
    def _found(self) -> tuple[ModuleType | None, str]:
        """The kernel's module, or None and why not."""
        try:
            import selective_scan_cuda
        except Exception as error:  # a wheel built for another torch fails with OSError or RuntimeError, too
            return None, f"mamba-ssm's kernel selective_scan_cuda cannot be imported ({type(error).__name__}: {error})"
        return selective_scan_cuda, ""

    @property
    def _kernel(self) -> ModuleType:
        module, reason = self._found
        if module is None:
            raise RuntimeError(reason)
        return module

    def supports(
        self, device: torch.device, dtype: torch.dtype, d_state: int, axes: int, orders: Orders = None
    ) -> tuple[bool, str]:
        """CUDA, fp32 or 16 bit, where mamba-ssm is installed."""
        if device.type != "cuda":
            return False, f"mamba-ssm's kernel runs on CUDA, not on {device.type}"
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return False, f"mamba-ssm's kernel takes float32, float16 or bfloat16, not {dtype}"
        if d_state > _MAX_D_STATE:
            return False, f"mamba-ssm's kernel takes d_state up to {_MAX_D_STATE}, not {d_state}"
        module, reason = self._found
        return module is not None, reason or "mamba-ssm's compiled kernel"

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, None]:
        """In the kernel's fp32 arithmetic; saves nothing."""
        x = inputs.x
        orders = grid_orders(inputs.sizes, x.device, inputs.orders)
        u, delta, a, b, c, d, bias = _kernel_inputs(inputs, orders)
        out = self._kernel.fwd(u, delta, a, b, c, d, None, bias, True)[0]
        out = out.unflatten(1, (len(orders), -1)).transpose(2, 3).float()  # (batch, K, L, channels)
        y = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        for k, order in enumerate(orders):
            y.index_add_(1, order, out[:, k])
        return y.to(x.dtype), None

    def backward(self, grad: Tensor, inputs: ScanInputs, saved: Tensor | None) -> ScanGradients:
        """After another forward, whose states the kernel wants."""
        x, dt, A, B, C, D, dt_bias, sizes, walks = inputs
        orders = grid_orders(sizes, x.device, walks)
        u, delta, a, b, c, d, bias = _kernel_inputs(inputs, orders)
        gy = _merge_directions(grad.to(x.dtype).transpose(1, 2)[:, :, orders].transpose(1, 2))
        _, states = self._kernel.fwd(u, delta, a, b, c, d, None, bias, True)[:2]
        gu, gdelta, ga, gb, gc, gd, gbias = self._kernel.bwd(
            u, delta, a, b, c, d, None, bias, gy, states, None, None, True, False
        )[:7]  # fmt: skip

        gu, gdelta = (t.unflatten(1, (len(orders), -1)).transpose(2, 3) for t in (gu, gdelta))
        grad_x = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        grad_dt, grad_B, grad_C = torch.zeros_like(dt), torch.zeros_like(B), torch.zeros_like(C)
        for k, order in enumerate(orders):
            grad_x.index_add_(1, order, gu[:, k].float())
            grad_dt[:, order, k] = gdelta[:, k].to(dt.dtype)
            grad_B[:, order, k] = gb[:, k].transpose(1, 2).to(B.dtype)
            grad_C[:, order, k] = gc[:, k].transpose(1, 2).to(C.dtype)
        return ScanGradients(
            grad_x.to(x.dtype), grad_dt, ga.view_as(A).to(A.dtype), grad_B, grad_C,
            gd.view_as(D).to(D.dtype), gbias.view_as(dt_bias).to(dt_bias.dtype),
        )  # fmt: skip
