"""The optimiser's recipe: which parameters decay, and the learning rate of each epoch and part of the network."""

import math
from collections.abc import Iterable
from typing import Any, TypedDict

import torch
from torch import nn

_NEVER_DECAYED = ("A_log", "D", "dt_bias", "bias")
PART, ENCODER = "part", "encoder"  # the mark of the groups that have a learning rate of their own


def parameter_groups(
    modules: Iterable[nn.Module], weight_decay: float, encoder: nn.Module | None = None
) -> list[dict[str, Any]]:
    """Two groups for an optimiser: parameters with weight decay, and those without.

    With an `encoder`, a part of the modules, two more follow: its parameters with and without, marked `"part":
    "encoder"`. They come last, because nnU-Net logs the learning rate of the first group.

    No decay on the scan's A_log, D and dt_bias (decay would pull the decay rates -exp(A_log) towards -1), on biases and
    on the weights of norms (every parameter of one dimension or none). Ours; VM-UNet's published recipe decays all.

    Args:
        modules: the modules to train; the parameters keep their order, so that a checkpoint of the optimiser fits.
        weight_decay: of the parameters with decay.
        encoder: what gets groups of its own; None: nothing does.
    """
    apart = set() if encoder is None else set(encoder.parameters())
    marks: list[dict[str, str]] = [{}] if encoder is None else [{}, {PART: ENCODER}]
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": decay, **mark} for mark in marks for decay in (weight_decay, 0.0)
    ]
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                exempt = parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in _NEVER_DECAYED
                groups[2 * (parameter in apart) + exempt]["params"].append(parameter)
    return groups


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


class ScheduleConstants(TypedDict):
    """The arguments of `learning_rate` that do not change with the epoch."""

    num_epochs: int
    initial_lr: float
    final_lr: float
    warmup_epochs: int


class WarmupCosineSchedule:
    """Sets `learning_rate(epoch, ...)` on every parameter group, as nnU-Net asks it to at the start of each epoch.

    Groups of the encoder (see `parameter_groups`) get `encoder_lr_factor` times that, and 0 in the first
    `frozen_encoder_epochs`. With a rate of 0 AdamW changes nothing, decay included; its moments, which the gradients
    still reach, are those of these weights when the encoder sets out.

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
        encoder_lr_factor: float = 1.0,
        frozen_encoder_epochs: int = 0,
    ) -> None:
        self.optimizer = optimizer
        self.encoder_lr_factor = encoder_lr_factor
        self.frozen_encoder_epochs = frozen_encoder_epochs
        self.constants: ScheduleConstants = {
            "num_epochs": num_epochs,
            "initial_lr": initial_lr,
            "final_lr": final_lr,
            "warmup_epochs": warmup_epochs,
        }

    def step(self, epoch: int) -> None:
        """Sets the rate of `epoch` (counted from 0)."""
        rate = learning_rate(epoch, **self.constants)
        of_encoder = 0.0 if epoch < self.frozen_encoder_epochs else rate * self.encoder_lr_factor
        for group in self.optimizer.param_groups:
            group["lr"] = of_encoder if group.get(PART) == ENCODER else rate

    def __repr__(self) -> str:  # nnU-Net writes it into debug.json
        constants = {
            **self.constants,
            "encoder_lr_factor": self.encoder_lr_factor,
            "frozen_encoder_epochs": self.frozen_encoder_epochs,
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in constants.items())})"
