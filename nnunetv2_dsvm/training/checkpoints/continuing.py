"""From where `--c` goes on, and what of the interrupted training is lost by that."""

import os
import re
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.nnunet.names import BEST, LATEST

SAVE_EVERY_VARIABLE = "NNUNETV2_DSVM_SAVE_EVERY"


def save_at_least_every(epochs: int) -> int:
    """After how many epochs the latest checkpoint is written: those of NNUNETV2_DSVM_SAVE_EVERY, where they are fewer.

    Args:
        epochs: of the trainer; nnU-Net's own is 50.

    Raises:
        UserValueError: the variable is set to something other than an integer from 1 on.
    """
    value = os.environ.get(SAVE_EVERY_VARIABLE, "").strip()
    if not value:
        return epochs
    if not (value.isascii() and value.isdigit() and int(value)):
        raise UserValueError(
            f"{SAVE_EVERY_VARIABLE} must be an integer from 1 on, got {value!r}; unset it for {epochs}"
        )
    return min(epochs, int(value))


def where_it_goes_on(trainer: nnUNetTrainer, checkpoint: str | None) -> str:
    """The sentences for the log of a training that is about to begin; empty for a new one.

    Args:
        trainer: whose checkpoint, if any, has been loaded.
        checkpoint: the file it was loaded from; None: nothing was loaded.
    """
    folder, epoch = Path(trainer.output_folder), trainer.current_epoch
    if checkpoint is None:
        return _nothing_to_continue(trainer, folder) if trainer.logger.resume else ""
    name = os.path.basename(checkpoint)
    if epoch >= trainer.num_epochs:
        return f"Continues from {name}: all {trainer.num_epochs} epochs are trained, and none is lost"
    begun = _last_epoch_begun(folder, Path(trainer.log_file))
    if begun is None:
        lost = "what was trained after it, if anything, is lost and trained again"
    elif begun < epoch:
        lost = "no epoch is lost"
    else:
        which = f"epoch {epoch}" if begun == epoch else f"epochs {epoch} to {begun}"
        lost = f"the interrupted training had begun epoch {begun}: {which} of it {_is(which)} lost and trained again"
    return (
        f"Continues from {name}, written after epoch {epoch - 1}, with epoch {epoch} of 0 to {trainer.num_epochs - 1}; "
        f"{lost} ({LATEST} is written every {trainer.save_every} epochs, {BEST} after each best one)"
        + (_about_later_best(folder, epoch) if name == LATEST else "")
    )


def _nothing_to_continue(trainer: nnUNetTrainer, folder: Path) -> str:
    begun = _last_epoch_begun(folder, Path(trainer.log_file))
    lost = "" if begun is None else f" An earlier training there had begun epoch {begun}: all of it is trained again"
    return f"--c found no checkpoint in {folder}: a new training starts with epoch 0.{lost}"


def _last_epoch_begun(folder: Path, own_log: Path) -> int | None:
    """The last epoch in the newest of the other runs' log files that has one."""
    logs = [path for path in folder.glob("training_log_*.txt") if path.name != own_log.name]
    for log in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True):
        text = log.read_text(encoding="utf-8", errors="replace")
        epochs = re.findall(r"^\S+ \S+ Epoch (\d+)\s*$", text, re.MULTILINE)
        if epochs:
            return int(epochs[-1])
    return None


def last_epoch_of_later_best(folder: str | Path, epoch: int) -> int | None:
    """The epoch after which `checkpoint_best.pth` was written, where that is `epoch` or later."""
    try:
        best = torch.load(Path(folder, BEST), map_location="cpu", weights_only=False, mmap=True)
        written_after = best["current_epoch"] - 1
    except Exception:  # none there, or a broken one, which is named by whoever has to read it
        return None
    return written_after if written_after >= epoch else None


def _about_later_best(folder: Path, epoch: int) -> str:
    later = last_epoch_of_later_best(folder, epoch)
    if later is None:
        return ""
    return (
        f". {BEST} was written later, after epoch {later}: to go on from there instead, stop, move {LATEST} away and "
        "repeat --c"
    )


def _is(which: str) -> str:
    return "are" if which.startswith("epochs") else "is"
