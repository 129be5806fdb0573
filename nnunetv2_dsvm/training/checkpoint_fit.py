"""Whether a checkpoint fits the training that is to go on or start with it; looked at before anything is changed."""

from collections.abc import Mapping
from typing import Any

import torch

_HEADS = ".seg_layers."  # nnU-Net never takes these from pretrained weights: the labels may differ


def difference(stored: Mapping[str, torch.Tensor], here: Mapping[str, torch.Tensor]) -> str:
    """How two sets of weights differ in names and shapes, in a few words; empty where they do not."""

    def shape(weights: Mapping[str, torch.Tensor], name: str) -> str:
        return "x".join(map(str, weights[name].shape)) or "scalar" if name in weights else "missing"

    names = [name for name in {**here, **stored} if shape(stored, name) != shape(here, name)]
    if not names:
        return ""
    first = f"{names[0]} is {shape(stored, names[0])} there and {shape(here, names[0])} here"
    return f"{len(names)} of {len({**here, **stored})} tensors differ: {first}" + (", …" if len(names) > 1 else "")


def refuse_other_network(
    filename: str, checkpoint: Mapping[str, Any], network_weights: Mapping[str, torch.Tensor]
) -> None:
    """Raises RuntimeError unless the checkpoint holds the weights of such a network."""
    other = difference(checkpoint["network_weights"], network_weights)
    if other:
        raise RuntimeError(
            f"{filename}, written by {checkpoint['trainer_name']}, holds another network than this training's: "
            f"{other}. The network's size comes from the plans (architecture, arch_kwargs), its first layer from the "
            "dataset's channels and its last from the labels: continue with the plans, dataset and trainer that it was "
            "started with. Nothing was changed."
        )


def refuse_unfit_weights(
    filename: str, checkpoint: Mapping[str, Any], network_weights: Mapping[str, torch.Tensor], trainer_name: str
) -> None:
    """Raises RuntimeError unless nnU-Net can start a training of such a network from the checkpoint's weights."""
    here = {name: weight for name, weight in network_weights.items() if _HEADS not in name}
    stored = {name: weight for name, weight in checkpoint["network_weights"].items() if name in here}
    other = difference(stored, here)
    if other:
        raise RuntimeError(
            f"-pretrained_weights {filename}, written by {checkpoint.get('trainer_name', 'an unknown trainer')}, does "
            f"not hold the network of {trainer_name}: {other}. Expected are the weights of a VM-UNet of this size with "
            "as many image channels (the labels may differ): give a checkpoint that nnUNetTrainerVMUNet, "
            "nnUNetTrainerDSVM or a variant wrote with the same architecture in the plans, or leave the option out to "
            "start from random weights. Nothing was written."
        )


def refuse_other_distillation(
    filename: str,
    checkpoint: Mapping[str, Any],
    stored: Mapping[str, torch.Tensor],
    projections: Mapping[str, torch.Tensor],
    trainer_name: str,
) -> None:
    """Raises RuntimeError unless the checkpoint's projections are those of this trainer."""
    writer = checkpoint["trainer_name"]
    if difference(stored, projections):
        raise RuntimeError(
            f"{filename} was written by {writer} with {len(stored)} tensors of distillation projections, but "
            f"{trainer_name} has {len(projections)} that must match them: a training can only be continued with the "
            f"trainer it was started with (-tr {writer}). To start a new training from its network, use "
            "-pretrained_weights instead of --c. Nothing was changed."
        )
