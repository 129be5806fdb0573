"""Blocks in a row, each of them recomputed in backward where that is wanted."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Blocks(nn.Module):
    """Modules of one tensor each, one after the other.

    Args:
        blocks: the modules.
        gradient_checkpointing: recompute each in backward, for less memory and more time.
    """

    def __init__(self, blocks: Iterable[nn.Module], gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x
