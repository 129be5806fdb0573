"""nnUNetTrainerDSVM: the VM-UNet trained with dual self-distillation."""

import os
from functools import partial
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_dsvm.distillation.distances import DistanceKind, FeatureDistance
from nnunetv2_dsvm.distillation.dual import DualSelfDistillation, Term
from nnunetv2_dsvm.distillation.features import ProjectionKind
from nnunetv2_dsvm.training.loss import (
    SEGMENTATION,
    SegmentationWithDistillationLoss,
    pixels_not_ignored,
    share_of_all_ranks,
)
from nnunetv2_dsvm.training.progress_picture import plot_distillation_progress
from nnunetv2_dsvm.training.surroundings import explaining_unwritable
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

LOG_KEYS = {SEGMENTATION: "segmentation_loss", "projection": "L_proj", "progressive": "L_prog"}
RAMP_KEY = "distillation_ramp"


class nnUNetTrainerDSVM(nnUNetTrainerVMUNet):
    """Trains DSVM-UNet (arXiv 2601.19690): the VM-UNet of `nnUNetTrainerVMUNet`, pulled together by its own features.

    From the paper: the two terms, projection (global) and progressive (local) self-distillation, with the mean squared
    error, and a network that is a plain VM-UNet at inference. Ours: the weights of the terms, the division of each by
    its number of pairs, the linear ramp over the first tenth of the epochs, and how features are brought to one shape
    (see `nnunetv2_dsvm.distillation`). Everything else is as in `nnUNetTrainerVMUNet`, so that the two compare.

    The defaults come from `examples/accuracy_study` (two tiny datasets, one validation fold each, five or eight epochs,
    one to three seeds): of the projection term's weights 0.01 to 10, 1 gave the most on both; 0, 0.1 and 1 of the
    progressive term beside it differed by less than the seeds. Nothing else that was varied gained on both by more
    than the seeds' spread. In the test, after twelve epochs, Dice was 0.026 ± 0.018 and 0.019 ± 0.008 above that
    without distillation (three seeds); two smaller networks gained on one of the two datasets only.

    A variant overrides one of the class attributes below.
    """

    distillation_terms: tuple[Term, ...] = ("projection", "progressive")
    distillation_distance: DistanceKind = "mse"
    distillation_temperature: float = FeatureDistance.temperature  # of "kl"
    distillation_standardise: bool = False
    distillation_stop_gradient: bool = True
    distillation_projection: ProjectionKind = "convolution"
    lambda_projection: float = 1.0
    lambda_progressive: float = 0.1
    ramp_fraction: float = 0.1

    def initialize(self):
        super().initialize()
        self.bare_network().return_features = True
        self._add_log_keys()

    def configure_optimizers(self):
        # The projections are made here because nnU-Net builds the loss, which uses them, only after the optimiser.
        network = self.bare_network()
        self.distillation = DualSelfDistillation(
            network.encoder.output_channels,
            network.decoder.output_channels,
            terms=self.distillation_terms,
            distance=self.distillation_distance,
            temperature=self.distillation_temperature,
            standardise=self.distillation_standardise,
            stop_gradient=self.distillation_stop_gradient,
            projection=self.distillation_projection,
        ).to(self.device)
        self.distillation.cuda_graphs.training = self._records_graphs()
        return super().configure_optimizers()

    def _build_loss(self):
        distillation: nn.Module = self.distillation
        if self.is_ddp and any(True for _ in distillation.parameters()):
            distillation = DistributedDataParallel(distillation, device_ids=[self.local_rank])
        weights = {"projection": self.lambda_projection, "progressive": self.lambda_progressive}
        not_ignored = None
        if self.label_manager.has_ignore_label:
            not_ignored = partial(
                pixels_not_ignored,
                ignore_label=self.label_manager.ignore_label,
                has_regions=self.label_manager.has_regions,
            )
        return SegmentationWithDistillationLoss(
            super()._build_loss(),
            distillation,
            weights,
            self._ramp_epochs(),
            not_ignored,
            share_of_all_ranks if self.is_ddp else None,
        )

    def on_train_epoch_start(self):
        self.loss.set_epoch(self.current_epoch)
        super().on_train_epoch_start()

    def on_train_epoch_end(self, train_outputs: list[dict]):
        super().on_train_epoch_end(train_outputs)
        values = {LOG_KEYS[name]: value for name, value in self._mean_terms_of_all_ranks().items()}
        values[RAMP_KEY] = self.loss.ramp
        for key, value in values.items():
            self.logger.log(key, value, self.current_epoch)
        self.print_to_log_file(", ".join(f"{key} {value:.4g}" for key, value in values.items()))

    def on_epoch_end(self):
        super().on_epoch_end()
        if self.local_rank == 0:
            history = {key: self.logger.get_value(key, step=None) for key in self._log_keys()}
            with explaining_unwritable(self.output_folder):
                plot_distillation_progress(history, os.path.join(self.output_folder, "progress_distillation.png"))

    def loss_terms_of_last_step(self) -> dict[str, float]:
        return {LOG_KEYS[name]: value.item() for name, value in self.loss.last_terms.items()}

    def distillation_settings(self) -> dict[str, Any]:
        return {
            "terms": self.distillation_terms,
            "distance": self.distillation_distance,
            "temperature": self.distillation_temperature,
            "standardise": self.distillation_standardise,
            "stop_gradient": self.distillation_stop_gradient,
            "projection": self.distillation_projection,
            "lambda_projection": self.lambda_projection,
            "lambda_progressive": self.lambda_progressive,
            "ramp_epochs": self._ramp_epochs(),
        }

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        self._add_log_keys()

    def _ramp_epochs(self) -> int:
        return round(self.num_epochs * self.ramp_fraction)

    def _log_keys(self) -> list[str]:
        return [*(LOG_KEYS[name] for name in (SEGMENTATION, *self.distillation_terms)), RAMP_KEY]

    def _add_log_keys(self) -> None:
        # nnU-Net's logger insists on one value per finished epoch and key; a checkpoint may come without ours.
        history = self.logger.local_logger.my_fantastic_logging
        for key in self._log_keys():
            history.setdefault(key, [float("nan")] * self.current_epoch)

    def _mean_terms_of_all_ranks(self) -> dict[str, float]:
        of_ranks = self._of_all_ranks(self.loss.mean_terms())
        return {name: sum(terms[name] for terms in of_ranks) / len(of_ranks) for name in of_ranks[0]}
