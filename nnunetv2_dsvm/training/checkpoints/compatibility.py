"""Whether a checkpoint fits the training that is to be continued with it; looked at before anything is changed."""

from collections.abc import Mapping
from typing import Any

import torch

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.training.checkpoints.files import KEY


def difference(stored: Mapping[str, torch.Tensor], here: Mapping[str, torch.Tensor]) -> str:
    """How two sets of weights differ in names and shapes, in a few words; empty where they do not."""

    def shape(weights: Mapping[str, torch.Tensor], name: str) -> str:
        return "x".join(map(str, weights[name].shape)) or "scalar" if name in weights else "missing"

    names = [name for name in {**here, **stored} if shape(stored, name) != shape(here, name)]
    if not names:
        return ""
    first = f"{names[0]} is {shape(stored, names[0])} there and {shape(here, names[0])} here"
    return f"{len(names)} of {len({**here, **stored})} tensors differ: {first}" + (", …" if len(names) > 1 else "")


def check_same_network(
    filename: str, checkpoint: Mapping[str, Any], network_weights: Mapping[str, torch.Tensor]
) -> None:
    """Raises UserError unless the checkpoint holds the weights of such a network."""
    other = difference(checkpoint["network_weights"], network_weights)
    if other:
        raise UserError(
            f"{filename}, written by {checkpoint['trainer_name']}, holds another network than this training's: "
            f"{other}. The network's size comes from the plans (architecture, arch_kwargs) and from what the trainer's "
            "class states of it, its first layer from the dataset's channels and its last from the labels: continue "
            "with the plans, dataset and trainer that it was started with. Nothing was changed."
        )


def check_same_distillation(
    filename: str, checkpoint: Mapping[str, Any], own: Mapping[str, Any], trainer_name: str
) -> None:
    """Raises UserError unless the checkpoint's projections are those of this trainer.

    Args:
        filename: of the checkpoint.
        checkpoint: its content.
        own: this trainer's entry: `projections` and `settings`, both missing or None without distillation.
        trainer_name: its class.
    """
    stored = checkpoint.get(KEY, {})
    writer, before, settings = checkpoint["trainer_name"], stored.get("settings"), own.get("settings")
    there, here = (entry.get("projections") or {} for entry in (stored, own))
    if not difference(there, here) and bool(before) == bool(settings):
        return
    if not before or not settings:
        why = f"{writer} trained {_with(before)} distillation and {trainer_name} trains {_with(settings)} it"
    else:
        other = [f"{key} was {before.get(key)!r} and is {settings[key]!r}" for key in settings
                 if before.get(key) != settings[key]]  # fmt: skip
        why = f"the projections of {writer} and {trainer_name} differ ({'; '.join(other) or 'their sizes'})"
    raise UserError(
        f"{filename} cannot be continued: {why}. A training can only be continued with the trainer and the settings it "
        f"was started with (-tr {writer}). To start a new training from its network, use -pretrained_weights instead "
        "of --c. Nothing was changed."
    )


def _with(settings: Mapping[str, Any] | None) -> str:
    return "with" if settings else "without"


def check_same_optimizer(filename: str, checkpoint: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raises UserError where the groups of parameters of the two differ in number or size."""
    there, here = len(checkpoint["optimizer_state"]["param_groups"]), len(optimizer.param_groups)
    if there != here:
        raise UserError(
            f"{filename} cannot be continued: its optimiser has {there} groups of parameters, this training's {here}. "
            "encoder_lr_factor and frozen_encoder_epochs of a trainer give the encoder groups of its own: continue "
            f"with the trainer it was started with ({checkpoint['trainer_name']}), these attributes as they were. "
            "Nothing was changed."
        )
    sizes_there = [len(group["params"]) for group in checkpoint["optimizer_state"]["param_groups"]]
    sizes_here = [len(group["params"]) for group in optimizer.param_groups]
    if sizes_there != sizes_here:
        raise UserError(
            f"{filename} cannot be continued: the groups of its optimiser have {sizes_there} parameters, this "
            f"training's {sizes_here}. Continue with the configure_optimizers it was started with "
            f"({checkpoint['trainer_name']}). Nothing was changed."
        )
