"""The layers of recipes: optimiser, schedule, length, precision."""

from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training.layers.class_settings import NNUNETS
from nnunetv2_dsvm.training.layers.precise import TrainingPrecision
from nnunetv2_dsvm.training.optimization import ENCODER, PART, WarmupCosineSchedule, parameter_groups
from nnunetv2_dsvm.training.precision import training_dtype


class VisionMambaRecipe(TrainingPrecision):
    """AdamW with a learning rate of 1e-3 and a weight decay of 1e-2, a warm-up and one cosine, 300 epochs, bf16.

    `configure_optimizers` of a class that is mixed in behind it is used instead of its own, with this learning rate,
    weight decay and length unless that class sets others.
    """

    default_num_epochs: int = 300
    default_initial_lr: float = 1e-3
    default_weight_decay: float = 1e-2
    final_lr_fraction: float = 1e-2
    warmup_fraction: float = 1 / 30
    # For an encoder with pretrained weights (nnU-Net's -pretrained_weights, see `nnUNetv2_dsvm convert-weights`):
    encoder_lr_factor: float = 1.0  # its learning rate, as a multiple of the rest's
    frozen_encoder_epochs: int = 0  # epochs, from the first on, in which its weights stay as they are

    @classmethod
    def in_short(cls) -> dict[str, str]:
        words = super().in_short()
        return {**words, "optimiser": "AdamW"} if words["optimiser"] == NNUNETS else words

    def initialize(self):
        super().initialize()
        if self._encoder_is_apart() and not any(g.get(PART) == ENCODER for g in self.optimizer.param_groups):
            raise UserValueError(
                f"{type(self).__name__} has encoder_lr_factor {self.encoder_lr_factor:g} and frozen_encoder_epochs "
                f"{self.frozen_encoder_epochs}, which belong to this package's optimiser, but takes another "
                "configure_optimizers from its bases: leave out one of them"
            )

    def configure_optimizers(self, *args: Any, **keywords: Any):
        if self.mixed_in_behind(VisionMambaRecipe, "configure_optimizers"):
            return super().configure_optimizers(*args, **keywords)
        # Only where it is asked for: two groups more or less would not fit an earlier checkpoint's.
        apart = unwrap_model(self.network).encoder if self._encoder_is_apart() else None
        groups = parameter_groups(self.trained_modules(), self.weight_decay, apart)
        optimizer = torch.optim.AdamW(groups, lr=self.initial_lr, fused=self.device.type == "cuda")
        schedule = WarmupCosineSchedule(
            optimizer,
            num_epochs=self.num_epochs,
            initial_lr=self.initial_lr,
            final_lr=self.initial_lr * self.final_lr_fraction,
            warmup_epochs=round(self.num_epochs * self.warmup_fraction),
            encoder_lr_factor=self.encoder_lr_factor,
            frozen_encoder_epochs=self.frozen_encoder_epochs,
        )
        return optimizer, schedule

    def on_train_start(self):
        super().on_train_start()
        dtype = training_dtype(self.device, self.precision) if self.device.type == "cuda" else torch.float32
        precision = str(dtype).removeprefix("torch.") + (" with a gradient scaler" if self.grad_scaler else "")
        self.print_to_log_file(
            f"recipe: {self.num_epochs} epochs of {self.num_iterations_per_epoch} iterations in {precision}, "
            f"{type(self.optimizer).__name__} with learning rate {self.initial_lr:g} and weight decay "
            f"{self.weight_decay:g}, {type(self.lr_scheduler).__name__}"
        )
        if self._encoder_is_apart():
            self.print_to_log_file(
                f"encoder: frozen for the first {self.frozen_encoder_epochs} epochs, then {self.encoder_lr_factor:g} "
                "times the learning rate of the rest"
            )

    def _encoder_is_apart(self) -> bool:
        return self.encoder_lr_factor != 1 or self.frozen_encoder_epochs > 0


class AdamRecipe(TrainingPrecision):
    """Adam, whose weight decay is added to the gradient of every parameter, and nnU-Net's polynomial schedule.

    `configure_optimizers` of a class that is mixed in behind it is used instead of its own.
    """

    @classmethod
    def in_short(cls) -> dict[str, str]:
        words = super().in_short()
        return {**words, "optimiser": "Adam"} if words["optimiser"] == NNUNETS else words

    def configure_optimizers(self, *args: Any, **keywords: Any):
        if self.mixed_in_behind(AdamRecipe, "configure_optimizers"):
            return super().configure_optimizers(*args, **keywords)
        parameters = [parameter for module in self.trained_modules() for parameter in module.parameters()]
        optimizer = torch.optim.Adam(
            parameters, lr=self.initial_lr, weight_decay=self.weight_decay, fused=self.device.type == "cuda"
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
