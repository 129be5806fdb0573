"""Writes weights as the file that nnU-Net's -pretrained_weights takes."""

from pathlib import Path
from typing import Any

import torch

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import replaced_file
from nnunetv2_dsvm.files.text import first_line
from nnunetv2_dsvm.models.pretrained.fitting import DecoderSource, Fitted, sizes
from nnunetv2_dsvm.models.pretrained.reading import Pretrained
from nnunetv2_dsvm.training.checkpoints.files import KEY
from nnunetv2_dsvm.version import __version__


def origin(pretrained: Pretrained, fitted: Fitted, network: VMUNet, decoder: DecoderSource) -> dict[str, Any]:
    """Where the weights come from, in plain values."""
    return {
        "version": __version__,
        "converted_from": pretrained.file.name,
        "naming": pretrained.naming,
        "decoder": decoder,
        "inflated": bool(fitted.inflated),
        "network": sizes(network),
        "share_of_encoder": fitted.share("encoder."),
        "share_of_network": fitted.share(""),
    }


def write_weights(fitted: Fitted, origin: dict[str, Any], path: Path) -> None:
    """Writes `{"network_weights": …, "nnunetv2_dsvm": origin}`, readable with `torch.load(weights_only=True)`.

    The heads are not in it: nnU-Net skips them, and their size is the number of labels of a data set.

    Raises:
        UserError: it could not be written; a file of that name is as it was, and nothing else is left.
    """
    try:
        with replaced_file(path) as partial, open(partial, "wb") as file:
            torch.save({"network_weights": fitted.weights, KEY: origin}, file)
    except (OSError, RuntimeError) as error:  # torch turns some failed writes into RuntimeError
        raise UserError(f"cannot write {path}: {first_line(error)}. Choose another place with -o.") from error
