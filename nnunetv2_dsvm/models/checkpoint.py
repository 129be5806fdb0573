"""What other people's checkpoints of nnU-Net hold, read without running their pickles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunetv2_dsvm.files.safe_load import load_safely
from nnunetv2_dsvm.training.checkpoints.files import KEY


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of an nnU-Net training, without its optimiser.

    Published checkpoints may lack what only a continued training needs: what is not there is empty.

    Attributes:
        entries: the names of all that the file holds.
        weights: of the network, on the disk until they are used.
        init_args: of the trainer.
        trainer: the name of its class.
        mirroring_axes: of the image, that the trainer allows at inference.
        logged: nnU-Net's logger: a value per epoch, by name.
        own: what this package's trainers add.
    """

    entries: frozenset[str]
    weights: Mapping[str, Tensor]
    init_args: Mapping[str, Any]
    trainer: str
    mirroring_axes: tuple[int, ...]
    logged: Mapping[str, Sequence[Any]]
    own: Mapping[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint; nothing but tensors, numbers and plain values is built from it.

    Raises:
        UserError: the file is missing, truncated, no checkpoint, or asks for code to be run.
    """
    stored = load_safely(path)
    content = stored if isinstance(stored, Mapping) else {}

    def mapping(entry: str) -> Mapping[str, Any]:
        value = content.get(entry)
        return value if isinstance(value, Mapping) else {}

    axes = content.get("inference_allowed_mirroring_axes")
    return Checkpoint(
        entries=frozenset(map(str, content)),
        weights=mapping("network_weights"),
        init_args=mapping("init_args"),
        trainer=str(content.get("trainer_name", "")),
        mirroring_axes=tuple(axes) if isinstance(axes, Sequence) else (),
        logged=mapping("logging"),
        own=mapping(KEY),
    )
