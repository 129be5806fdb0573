"""Blocks in a row, each of them recomputed in backward where that is wanted."""

from collections.abc import Iterable
from typing import Any

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
            x = called(block, x, recompute=self.gradient_checkpointing)
        return x


def called(module: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """What a module gives; in training it is recomputed in backward where that is wanted."""
    if recompute and module.training and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


class RecomputesAPart(nn.Module):
    """A module that has a part of its own `called`, recomputed where `gradient_checkpointing` is switched on."""

    gradient_checkpointing: bool = False


def recompute_parts(network: nn.Module, wanted: bool) -> None:
    """Switches `gradient_checkpointing` of all such modules of a network."""
    for module in network.modules():
        if isinstance(module, RecomputesAPart):
            module.gradient_checkpointing = wanted
