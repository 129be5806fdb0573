"""The layer of repeatability: every random number of a training follows from one seed, where the user sets it."""

import contextlib

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks
from nnunetv2_dsvm.training.seeding import deterministic_algorithms, seed_all, seed_from_environment
from nnunetv2_dsvm.version import __version__


class RepeatableTraining(TrainerHooks):
    """Seeds initialisation and epochs by `NNUNETV2_DSVM_SEED`, and asks torch for deterministic algorithms then."""

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        self.seed = seed_from_environment()
        if self.seed is not None:
            self.check_not_cut_off("on_epoch_start", "the seed of each epoch")

    def is_deterministic(self) -> bool:
        return self.seed is not None

    def initialize(self):
        if self.seed is not None:
            seed_all(self.seed)
        super().initialize()

    def run_training(self):
        with self._as_seeded():
            super().run_training()

    def _as_seeded(self) -> contextlib.AbstractContextManager:
        return deterministic_algorithms() if self.is_deterministic() else contextlib.nullcontext()

    def on_train_start(self):
        super().on_train_start()
        self.print_to_log_file(f"nnunetv2_dsvm {__version__}, seed {self.seed}")

    def on_epoch_start(self):
        if self.seed is not None:  # from the epoch alone, so that a continued run draws what an uninterrupted one would
            seed_all(self.seed, self.current_epoch, self.local_rank)
        super().on_epoch_start()

    def train_step(self, batch: dict) -> dict:
        with self._as_seeded():  # also in a run_training of another class
            return super().train_step(batch)
