"""What a training took and how it went, from the checkpoints: nnU-Net's logged series, epochs' times, parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from nnunetv2_dsvm.files.safe_load import UnsafePickle
from nnunetv2_dsvm.models.checkpoint import read_checkpoint
from nnunetv2_dsvm.nnunet.names import CHECKPOINTS, FINAL
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.style import LineStyle

STARTS, ENDS = "epoch_start_timestamps", "epoch_end_timestamps"  # of nnU-Net's logger
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of normalisation layers: not trained

History = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """One diagram: its title, and the logged series in it with their line style and name."""

    title: str
    series: tuple[tuple[str, LineStyle, str], ...]
    logarithmic: bool = False


# nnU-Net's own series first; the others are there for trainers with dual self-distillation.
PANELS = (
    Panel("loss", (("train_losses", "-", "training"), ("val_losses", ":", "validation"))),
    Panel("pseudo Dice", (("ema_fg_dice", "-", "moving average"), ("mean_fg_dice", ":", "epoch"))),
    Panel("learning rate", (("lrs", "-", ""),)),
    Panel("segmentation loss", (("segmentation_loss", "-", ""),)),
    Panel("L_proj (projection)", (("L_proj", "-", ""),), logarithmic=True),
    Panel("L_prog (progressive)", (("L_prog", "-", ""),), logarithmic=True),
    Panel("ramp of the distillation", (("distillation_ramp", "-", ""),)),
)


@dataclass(frozen=True)
class Curves:
    """The logged series of each fold, what a reader must know about them, and what the training took.

    Args:
        parameters: of the network; None where no checkpoint tells.
        epoch_seconds: of each fold's epochs, where its checkpoint tells.
    """

    histories: Mapping[str, History]
    notes: tuple[str, ...]
    parameters: int | None = None
    epoch_seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def panels(self) -> list[Panel]:
        """The panels that have something to show."""
        return [panel for panel in PANELS if self.values(panel)]

    def values(self, panel: Panel) -> list[float]:
        """All finite values that a panel shows."""
        logged = (history.get(key, ()) for history in self.histories.values() for key, _, _ in panel.series)
        return [value for series in logged for value in series if math.isfinite(value)]


def read_curves(model: TrainedModel, folds: Sequence[str]) -> Curves:
    """Read each fold's series from its final checkpoint, or from the last one of a training that is not finished.

    Raises:
        UserError: a checkpoint is broken. One that asks for code to be run is left out, with a note that says so.
    """
    histories: dict[str, History] = {}
    notes: list[str] = []
    parameters: int | None = None
    seconds: dict[str, list[float]] = {}
    for fold in folds:
        present = [path for name in CHECKPOINTS if (path := model.fold_folder(fold) / name).is_file()]
        if not present:
            notes.append(f"Fold {fold} has no checkpoint, and so no curves.")
            continue
        try:
            checkpoint = read_checkpoint(present[0])
        except UnsafePickle as error:
            notes.append(f"Fold {fold} has no curves: {error}.")
            continue
        parameters = parameters or number_of_parameters(checkpoint.weights)
        logged = {key: _numbers(values) for key, values in checkpoint.logged.items()}
        if not logged:
            notes.append(f"Fold {fold}: {present[0].name} holds no training curves.")
            continue
        keys = {key for panel in PANELS for key, _, _ in panel.series}
        histories[fold] = {key: values for key, values in logged.items() if key in keys}
        if of_epochs := epoch_seconds(logged):
            seconds[fold] = of_epochs
        if present[0].name != FINAL:
            epochs = len(histories[fold].get("train_losses", ()))
            notes.append(f"Fold {fold} is not finished: {present[0].name}, after {epochs} epochs.")
    return Curves(histories, tuple(notes), parameters, seconds)


def limits(all_curves: Sequence[Curves]) -> dict[str, tuple[float, float]]:
    """The range of each panel's values over several models, so that their diagrams compare at a glance."""
    found = {}
    for panel in PANELS:
        values = [value for curves in all_curves for value in curves.values(panel)]
        if panel.logarithmic:
            values = [value for value in values if value > 0]
        if values:
            found[panel.title] = (min(values), max(values))
    return found


def _numbers(values: object) -> list[float]:
    """A value per epoch; NaN for what is none, as a file of somebody else's may hold."""
    if not isinstance(values, list):
        return []
    return [float(value) if isinstance(value, Real) else math.nan for value in values]


def number_of_parameters(weights: Any) -> int | None:
    """Of a network, by the weights in its checkpoint; None where these are none.

    nnU-Net's decoders hold the encoder once more, under other names and in the same memory: it counts once.
    """
    if not isinstance(weights, Mapping):
        return None
    sizes = {}
    for name, tensor in weights.items():
        if hasattr(tensor, "untyped_storage") and name.rpartition(".")[2] not in BUFFERS:
            sizes[tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape] = tensor.numel()
    return sum(sizes.values()) or None


def epoch_seconds(logged: Mapping[str, Sequence[float]]) -> list[float]:
    """Of each epoch that nnU-Net's logger has seen end: training and its validation, without breaks between epochs."""
    times = zip(logged.get(STARTS, ()), logged.get(ENDS, ()), strict=False)
    spans = [end - start for start, end in times]
    return [seconds for seconds in spans if math.isfinite(seconds) and seconds >= 0]


def shown_duration(seconds: float) -> str:
    """With its two largest units."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
