"""What a training needs around it, checked before it starts: device, results folder, the cascade's earlier stage."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import distributed as dist

from nnunetv2_dsvm.errors import Refusal, UserError
from nnunetv2_dsvm.files.places_to_write import try_to_write
from nnunetv2_dsvm.training.checkpoints.files import how_to_go_on

_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_ROOM = 2**16  # bytes: nnU-Net empties the plans.json and dataset.json of all folds before it writes them anew


def check_device(device: torch.device) -> None:
    """Raises UserError unless torch can compute on this kind of device here."""
    available: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device.type in available and not available[device.type]():
        name = {"cuda": "NVIDIA or AMD GPU", "mps": "Apple GPU"}[device.type]
        raise UserError(
            f"-device {device.type}: torch {torch.__version__} finds no usable {name} here. Use -device cpu, or "
            "run nnUNetv2_dsvm doctor to see what is missing"
        )


def check_equal_shares(configuration: ConfigurationManager) -> None:
    """Raises UserError where several GPUs would get unequal parts of a batch whose Dice is computed over all."""
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    batch = configuration.batch_size
    if configuration.batch_dice and batch % ranks:
        raise UserError(
            f"A batch of {batch} cannot be shared equally by {ranks} GPUs, which nnU-Net's batch Dice needs. Nothing "
            "was trained. In a copy of the plans (nnUNetv2_dsvm copy-plans, option --batch-size) set batch_size to "
            f"{batch - batch % ranks or ranks}, or train on another number of GPUs"
        )


def check_writable(folder: str) -> None:
    """Raises UserError unless files can be written in this existing folder, and its disk has room for them."""
    if error := _fault_of_writing(folder):
        raise UserError(unwritable(folder, error)) from error


def _fault_of_writing(folder: str) -> OSError | None:
    try:
        try_to_write(Path(folder), _ROOM)
    except OSError as error:
        return error
    return None


@contextmanager
def explaining_unwritable(folder: str) -> Iterator[None]:
    """Within it, the error of a results folder that can no longer be written becomes a sentence on how to go on.

    A refusal, as of a checkpoint, already is one, and an error that is not of writing there is left as it is. ITK,
    with which nnU-Net writes predictions, does not say when the disk is full: another error follows, in reading them.
    """
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        below = isinstance(error, OSError) and str(error.filename or "").startswith(os.path.join(folder, ""))
        of_writing = isinstance(error, OSError) and error.errno in _OF_WRITING
        reason = error if below or of_writing else _fault_of_writing(folder)
        if reason is None:
            raise
        raise UserError(
            f"The results folder {folder} can no longer be written: {reason}. Its checkpoints are as they were; what "
            f"was not yet written is lost. Make it writable, or make room, and {how_to_go_on(folder)}"
        ) from error


def unwritable(folder: str, error: OSError) -> str:
    """What to say when the results folder cannot be written."""
    return (
        f"The results folder {folder} cannot be written: {error.strerror or error}. Nothing was trained. Make it "
        f"writable, or make room, or let nnUNet_results (now {os.environ.get('nnUNet_results', 'not set')}) name "
        "another folder"
    )


def check_segmentations(cases: Iterable[str], folder: str, previous_stage: str) -> None:
    """Raises UserError unless this folder holds the previous stage's segmentation of every case."""
    endings = (".b2nd", ".npy", ".npz")  # of nnU-Net's two kinds of datasets
    there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    missing = sorted(case for case in cases if there.isdisjoint(case + ending for ending in endings))
    if missing:
        raise UserError(
            f"This configuration also reads the segmentations of {previous_stage}, but those of {', '.join(missing)} "
            f"are missing in {folder}. Nothing was trained. Train every fold of {previous_stage} with the same trainer "
            "and plans: its final validation writes them (nnUNetv2_train DATASET CONFIGURATION FOLD --val repeats it)"
        )
