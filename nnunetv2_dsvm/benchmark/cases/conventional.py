"""The yardstick: SS2D as VM-UNet composes it (arXiv 2401.10166, 2402.02491), written for mamba-ssm's CUDA kernel.

Four flipped and transposed copies of the feature map, two einsums, the kernel in fp32, flips and transposes back, and a
sum. The kernel's states are kept for backward, not recomputed, as mamba-ssm does it.
"""

import copy
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.vss_block import DropPath, VSSBlock
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.ops.scan_order import NUM_DIRECTIONS

# (u, delta, A, B, C, D, delta_bias) -> y with u, delta, y (batch, channels, L), A (channels, N), B, C (batch, K, N, L).
SequenceScan = Callable[..., Tensor]


def kernel() -> tuple[ModuleType | None, str]:
    """mamba-ssm's compiled module, or None and why not."""
    if not torch.cuda.is_available():
        return None, "mamba-ssm's kernel needs CUDA"
    try:
        import selective_scan_cuda
    except Exception as error:  # built for another torch: OSError or RuntimeError
        return None, f"mamba-ssm's kernel cannot be imported ({type(error).__name__}: {error})"
    return selective_scan_cuda, ""


class _KernelScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias):
        out, states = kernel()[0].fwd(u, delta, A, B, C, D, None, delta_bias, True)[:2]
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, states)
        return out

    @staticmethod
    def backward(ctx, grad):
        u, delta, A, B, C, D, delta_bias, states = ctx.saved_tensors
        return tuple(
            kernel()[0].bwd(
                u, delta, A, B, C, D, None, delta_bias, grad.contiguous(), states, None, None, True, False
            )[:7]
        )  # fmt: skip


def kernel_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """mamba-ssm's selective scan with softplus; see `SequenceScan` for the shapes."""
    return _KernelScan.apply(u, delta, A, B, C, D, delta_bias)


def scan_of_copies(scan: SequenceScan, copies: Tensor, module: Any) -> Tensor:
    """The scan of `(B, K, channels, L)`, each direction in its own order, by the parameters of an SS2D; fp32."""
    parameters = torch.einsum("bkdl,kcd->bkcl", copies, module.x_proj)
    low_rank, B, C = parameters.split([module.dt_rank, module.d_state, module.d_state], dim=2)
    dt = torch.einsum("bkrl,kdr->bkdl", low_rank, module.dt_proj)
    return scan(
        copies.float().flatten(1, 2).contiguous(),
        dt.float().flatten(1, 2).contiguous(),
        -torch.exp(module.A_log.float()).flatten(0, 1),
        B.float().contiguous(),
        C.float().contiguous(),
        module.D.float().flatten(),
        module.dt_bias.float().flatten(),
    ).unflatten(1, copies.shape[1:3])


class ConventionalSS2D(nn.Module):
    """Same parameters and result as `SS2D` of `architecture.blocks.vss_block`: `(B, H, W, dim)` to the same shape."""

    def __init__(self, dim: int, d_state: int = 16, scan: SequenceScan = kernel_scan) -> None:
        super().__init__()
        d_inner, dt_rank = 2 * dim, math.ceil(dim / 16)
        self.dt_rank, self.d_state, self.scan = dt_rank, d_state, scan
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv = nn.Conv2d(d_inner, d_inner, kernel_size=3, padding=1, groups=d_inner)
        self.x_proj = nn.Parameter(torch.empty(NUM_DIRECTIONS, dt_rank + 2 * d_state, d_inner))
        self.dt_proj = nn.Parameter(torch.empty(NUM_DIRECTIONS, d_inner, dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(NUM_DIRECTIONS, d_inner))
        self.A_log = nn.Parameter(torch.empty(NUM_DIRECTIONS, d_inner, d_state))
        self.D = nn.Parameter(torch.empty(NUM_DIRECTIONS, d_inner))
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv(x.permute(0, 3, 1, 2).contiguous()))
        return self.out_proj(self.out_norm(self.core(x)) * F.silu(z))

    def core(self, x: Tensor) -> Tensor:
        """From the convolution's output `(B, d_inner, H, W)` to the merged sum `(B, H, W, d_inner)`, fp32."""
        height, width = x.shape[2:]
        forwards = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], dim=1)
        copies = torch.cat([forwards, forwards.flip(-1)], dim=1)  # (B, K, channels, L), each in its scan order
        out = scan_of_copies(self.scan, copies, self)
        rows = out[:, 0] + out[:, 2].flip(-1)
        columns = out[:, 1] + out[:, 3].flip(-1)
        columns = columns.unflatten(-1, (width, height)).transpose(2, 3).flatten(2)
        return (rows + columns).unflatten(-1, (height, width)).permute(0, 2, 3, 1)


class ConventionalVSSBlock(nn.Module):
    """`x + DropPath(SS2D(LayerNorm(x)))` with `ConventionalSS2D`."""

    def __init__(self, dim: int, d_state: int, drop_path: float, scan: SequenceScan = kernel_scan) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.ss2d = ConventionalSS2D(dim, d_state, scan)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.ss2d(self.norm(x)))

    @classmethod
    def like(cls, block: VSSBlock, scan: SequenceScan = kernel_scan) -> "ConventionalVSSBlock":
        """A block with the weights of ours."""
        state = block.state_dict()
        twin = cls(block.norm.weight.shape[0], block.ss2d.d_state, block.drop_path.probability, scan)
        twin.load_state_dict(state)
        return twin.to(block.norm.weight.device)


def conventional_network(network: VMUNet, scan: SequenceScan = kernel_scan) -> VMUNet:
    """A copy of the network, with the same weights, whose VSS blocks are the conventional ones."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, VSSBlock):
                setattr(module, name, ConventionalVSSBlock.like(child, scan))
    return network
