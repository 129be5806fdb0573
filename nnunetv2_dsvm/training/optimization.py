"""The optimiser's recipe: which parameters decay, and the learning rate of each epoch (warm-up, then one cosine)."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_NEVER_DECAYED = ("A_log", "D", "dt_bias", "bias")


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimiser: parameters with weight decay, and those without.

    No decay on the scan's A_log, D and dt_bias (decay would pull the decay rates -exp(A_log) towards -1), on biases and
    on the weights of norms (every parameter of one dimension or none). Ours; VM-UNet's published recipe decays all.

    Args:
        modules: the modules to train; the parameters keep their order, so that a checkpoint of the optimiser fits.
        weight_decay: of the first group.
    """
    decayed, undecayed = [], []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                exempt = parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in _NEVER_DECAYED
                (undecayed if exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]


def linear_ramp(epoch: int, length: int) -> float:
    """A line that is 0 before the first epoch and 1 from epoch `length` on: min(1, (epoch + 1) / (length + 1))."""
    return min(1.0, (epoch + 1) / (length + 1))


def learning_rate(epoch: int, num_epochs: int, initial_lr: float, final_lr: float, warmup_epochs: int) -> float:
    """The learning rate of an epoch: `linear_ramp` to initial_lr, then one cosine that reaches final_lr at num_epochs.

    The cosine is VM-UNet's recipe, stretched over the whole training; the warm-up is ours.
    """
    if epoch < warmup_epochs:
        return initial_lr * linear_ramp(epoch, warmup_epochs)
    progress = min(1.0, (epoch - warmup_epochs) / max(1, num_epochs - warmup_epochs))
    return final_lr + (initial_lr - final_lr) * (1 + math.cos(math.pi * progress)) / 2


class WarmupCosineSchedule:
    """Sets `learning_rate(epoch, ...)` on every parameter group, as nnU-Net asks it to at the start of each epoch.

    It holds no state but its constants, so a continued training takes up the schedule exactly.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        num_epochs: int,
        initial_lr: float,
        final_lr: float,
        warmup_epochs: int,
    ) -> None:
        self.optimizer = optimizer
        self.constants = {
            "num_epochs": num_epochs,
            "initial_lr": initial_lr,
            "final_lr": final_lr,
            "warmup_epochs": warmup_epochs,
        }

    def step(self, epoch: int) -> None:
        """Sets the rate of `epoch` (counted from 0)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(epoch, **self.constants)

    def __repr__(self) -> str:  # nnU-Net writes it into debug.json
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self.constants.items())})"
