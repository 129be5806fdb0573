"""How a relative was trained by its authors, as data."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Recipe:
    """A published recipe, as far as nnU-Net's frame takes it up; data and augmentation stay nnU-Net's.

    Attributes:
        optimiser: "AdamW" with one cosine; "Adam" with nnU-Net's schedule, where what follows `num_epochs` has no
            meaning; or "nnU-Net" for its SGD, schedule and length, where nothing behind `deep_supervision` has.
        precision: of training on CUDA, auto, bf16, fp16 or fp32; "auto" is bf16 where the hardware has it, else fp16.
        deep_supervision: whether the auxiliary heads are trained.
        initial_lr, weight_decay, num_epochs: of AdamW or Adam.
        final_lr_fraction: where the cosine ends, by the initial rate.
        warmup_fraction: of the epochs, with a rate that grows.
        frozen_encoder_epochs: for an encoder with pretrained weights, from the first on. Ours is 0: without such
            weights a frozen encoder would only cost epochs.
    """

    optimiser: Literal["AdamW", "Adam", "nnU-Net"] = "AdamW"
    precision: str = "auto"
    deep_supervision: bool = False
    initial_lr: float = 1e-3
    weight_decay: float = 1e-2
    num_epochs: int = 300
    final_lr_fraction: float = 1e-2
    warmup_fraction: float = 1 / 30
    frozen_encoder_epochs: int = 0

    def settings(self) -> dict[str, Any]:
        """As the class attributes of a trainer's layers."""
        always = {"precision": self.precision, "default_deep_supervision": self.deep_supervision}
        if self.optimiser == "nnU-Net":
            return always
        of_both = {
            "default_initial_lr": self.initial_lr,
            "default_weight_decay": self.weight_decay,
            "default_num_epochs": self.num_epochs,
        }
        if self.optimiser == "Adam":
            return {**always, **of_both}
        return {
            **always,
            **of_both,
            "final_lr_fraction": self.final_lr_fraction,
            "warmup_fraction": self.warmup_fraction,
            "frozen_encoder_epochs": self.frozen_encoder_epochs,
        }
