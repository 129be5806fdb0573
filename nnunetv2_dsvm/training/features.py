"""Where the features of a network in training come from: the network itself, or taps on its modules."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nnunetv2_dsvm.architecture.stage_info import StageInfo
from nnunetv2_dsvm.distillation.stages import describe_stages, unet_stages
from nnunetv2_dsvm.distillation.taps import FeatureTaps
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.files.text import by

BothSides = tuple[Sequence[str] | None, Sequence[str] | None]  # names of modules: the encoder's, the decoder's
_ATTRIBUTES = ("distillation_encoder", "distillation_decoder")  # of a trainer's class, which name the modules


def check_names(trainer: str, names: BothSides) -> None:
    """Raises UserValueError unless both sides, or neither, name modules."""
    stated = {attribute: value for attribute, value in zip(_ATTRIBUTES, names, strict=True) if value is not None}
    for attribute, value in stated.items():
        if isinstance(value, str) or not value or not all(isinstance(module, str) for module in value):
            raise UserValueError(
                f"{trainer}.{attribute} is {value!r}, but must be the names of modules, highest resolution first, as "
                'in ("encoder.0", "encoder.1")'
            )
    if len(stated) == 1:
        (one,), (other,) = stated, {*_ATTRIBUTES} - {*stated}
        raise UserValueError(f"{trainer} has {one}, but no {other}: name the modules of both sides")


def passes_on_features(network: nn.Module) -> bool:
    """Whether the network itself returns its features in training, where it is told to (`VMUNet`)."""
    return hasattr(network, "return_features")


def modules_to_tap(network: nn.Module, names: BothSides) -> tuple[Sequence[str], Sequence[str]]:
    """Those that are named, else the stages of nnU-Net's own networks.

    Raises:
        UserValueError: none are named, and the network is not built as nnU-Net's.
    """
    encoder, decoder = names
    return unet_stages(network) if encoder is None or decoder is None else (encoder, decoder)


def stages_of(
    trainer: str, network: Any, names: BothSides, image: torch.Tensor
) -> tuple[Sequence[StageInfo], Sequence[StageInfo]]:
    """The encoder's and the decoder's stages: as the network states them, else as one run shows them.

    Args:
        trainer: the name of its class.
        network: without wrappers.
        names: of the modules to tap.
        image: (1, channels, *spatial) of the size that is trained on.

    Raises:
        UserValueError: its features cannot be had, and why.
    """
    if passes_on_features(network):
        if names != (None, None):
            raise UserValueError(
                f"{trainer} names modules in {' and '.join(_ATTRIBUTES)}, but its {type(network).__name__} passes on "
                "its features itself: leave the names out"
            )
        return network.encoder_stages, network.decoder_stages
    try:
        return describe_stages(network, *modules_to_tap(network, names), image)
    except ValueError as error:
        raise UserValueError(
            f"{trainer} cannot distil the features of its network: {error}. The class attributes "
            f"{' and '.join(_ATTRIBUTES)} name the modules, highest resolution first"
        ) from error


def return_features(network: Any, names: BothSides) -> None:
    """From here on the network returns its features with its logits while it trains. Before its first call."""
    if passes_on_features(network):
        network.return_features = True
    else:
        FeatureTaps(network, *modules_to_tap(network, names))


def in_words(stage: StageInfo) -> str:
    """A stage for the log."""
    return f"{stage.module} ({stage.channels} channels, stride {by(stage.stride)})"
