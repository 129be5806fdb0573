"""The layer of the number format: bf16 or another, whatever the optimiser."""

from contextlib import AbstractContextManager

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.training.layers.overrides import cuts_off
from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks, is_layer
from nnunetv2_dsvm.training.precision import Precision, cuda_autocast, training_dtype


class TrainingPrecision(TrainerHooks):
    """Trains in bf16 on CUDA where the hardware has it, in the place of nnU-Net's fp16."""

    precision: Precision = "auto"  # on CUDA; auto: bf16 where the hardware has it, else fp16

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        if device.type == "cuda" and cuts_off(type(self), TrainerHooks, "run_training", is_layer):
            self.check_not_cut_off("train_step", f"its precision ({self.precision}), as its run_training does not")

    def initialize(self):
        if training_dtype(self.device, self.precision) != torch.float16:
            self.grad_scaler = None  # bf16 has the range of fp32
        super().initialize()

    def run_training(self):
        with self._autocast():
            super().run_training()

    def train_step(self, batch: dict) -> dict:
        with self._autocast():  # also in a run_training of another class
            return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        with self._autocast():
            return super().validation_step(batch)

    def _autocast(self) -> AbstractContextManager:
        return cuda_autocast(training_dtype(self.device, self.precision))
