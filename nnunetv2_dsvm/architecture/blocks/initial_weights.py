"""Initial weights that several networks share."""

from torch import nn


def linear_weights_truncated_normal(module: nn.Module) -> None:
    """For `Module.apply`: linear weights truncated normal 0.02, all else as torch (or the module) initialises it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
