"""How far a training is, read from the files that nnU-Net writes into its fold's folder."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.listing import visible_files

SUMMARY = "summary.json"  # of nnU-Net's validation, which writes it last

_TAIL = 2**18  # bytes of a log that are read: thousands of epochs
_EPOCH = re.compile(r"^\S+ \S+ Epoch (\d+)\s*$", re.MULTILINE)
_DICE = re.compile(r"Pseudo dice \[(.*)\]")
_SECONDS = re.compile(r"Epoch time: ([\d.]+) s")
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.?\d*(?:e-?\d+)?|nan")


@dataclass(frozen=True)
class Progress:
    """Of a training that has begun; None for what its files do not tell yet.

    Args:
        epoch: that is being trained, from 0.
        epochs: of the whole training.
        pseudo_dice: of the last finished epoch, nnU-Net's estimate, over the classes.
        seconds_per_epoch: median of the last ten.
    """

    epoch: int
    epochs: int | None
    pseudo_dice: float | None
    seconds_per_epoch: float | None

    @property
    def seconds_left(self) -> float | None:
        """Until the last epoch ends, this one counted whole; the final validation comes on top."""
        if self.epochs is None or self.seconds_per_epoch is None:
            return None
        return max(0, self.epochs - self.epoch) * self.seconds_per_epoch


def training_progress(fold: Path) -> Progress | None:
    """Read from the newest log of nnU-Net's in a fold's folder that has an epoch; None where none has."""
    logs = [path for path in visible_files(fold, ".txt") if path.name.startswith("training_log_")]
    for log in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True):
        text = _tail_of(log)
        if epochs := _EPOCH.findall(text):
            dice = [_mean(found) for found in _DICE.findall(text)[-1:]]
            seconds = [float(value) for value in _SECONDS.findall(text)[-10:]]
            return Progress(
                int(epochs[-1]),
                _number_of_epochs(fold),
                dice[0] if dice else None,
                median(seconds) if seconds else None,
            )
    return None


def validation_dice(validation: Path) -> float | None:
    """nnU-Net's mean foreground Dice, from the folder of a finished validation; None where there is none.

    It is NaN where a class is neither in a case nor predicted.
    """
    try:
        content = json.loads((validation / SUMMARY).read_text(encoding="utf-8"))
        return float(content["foreground_mean"]["Dice"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def undefined_classes(validations: Sequence[Path]) -> list[str]:
    """The classes without a Dice in any of these finished validations: no case has them, nor has its prediction.

    Empty where a summary cannot be read.
    """
    try:
        means = [read_json_object(validation / SUMMARY).get("mean", {}) for validation in validations]
    except UserError:
        return []
    defined = {name for mean in means for name, metrics in mean.items() if not math.isnan(metrics["Dice"])}
    return [name for name in dict.fromkeys(name for mean in means for name in mean) if name not in defined]


def _tail_of(file: Path) -> str:
    with open(file, "rb") as log:
        log.seek(max(0, file.stat().st_size - _TAIL))
        return log.read().decode("utf-8", errors="replace")


def _mean(classes: str) -> float | None:
    """Of `np.float32(0.1), nan, 0.3`, without the classes of which nothing was seen."""
    values = [float(value) for value in _NUMBER.findall(classes.replace("float32", "").replace("float64", ""))]
    seen = [value for value in values if not math.isnan(value)]
    return sum(seen) / len(seen) if seen else None


def _number_of_epochs(fold: Path) -> int | None:
    """As nnU-Net writes it down when the training begins."""
    try:
        return int(json.loads((fold / "debug.json").read_text(encoding="utf-8"))["num_epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
