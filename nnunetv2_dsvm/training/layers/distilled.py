"""The layer of dual self-distillation: features of any network, projections, loss, ramp, logs."""

import itertools
import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunetv2_dsvm.architecture.stage_info import StageInfo
from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.cuda_graphs.averaged_gradients import in_ddp
from nnunetv2_dsvm.distillation.distances import DistanceKind, FeatureDistance
from nnunetv2_dsvm.distillation.dual import DualSelfDistillation, Term, compiled_terms
from nnunetv2_dsvm.distillation.features import ProjectionKind
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training.features import (
    BothSides,
    check_names,
    in_words,
    modules_to_tap,
    passes_on_features,
    return_features,
    stages_of,
)
from nnunetv2_dsvm.training.guards.surroundings import explaining_unwritable
from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks
from nnunetv2_dsvm.training.loss import (
    NO_FEATURES,
    SEGMENTATION,
    SegmentationWithDistillationLoss,
    pixels_not_ignored,
    share_of_all_ranks,
)
from nnunetv2_dsvm.training.loss_plot import plot_distillation_progress

LOG_KEYS = {SEGMENTATION: "segmentation_loss", "projection": "L_proj", "progressive": "L_prog"}
RAMP_KEY = "distillation_ramp"


class DistilledTraining(TrainerHooks):
    """Adds the two terms to whatever segmentation loss, optimiser and schedule the class has otherwise.

    `_build_loss` stays that of the segmentation, and a loss that is assigned to the trainer at any time gets the terms.
    An optimiser that does not know the projections is given them.

    Features come from the network itself where it passes them on (`VMUNet`), else from hooks on its modules: those that
    are named, or the stages of nnU-Net's own networks. Hooks leave the network's weights and its inference as they are.
    Where nnU-Net compiles the network that they are on, the terms are compiled too.
    """

    distillation_encoder: Sequence[str] | None = None  # modules, highest resolution first; "name[i]" of a list's maps
    distillation_decoder: Sequence[str] | None = None
    distillation_terms: tuple[Term, ...] = ("projection", "progressive")
    distillation_distance: DistanceKind = "mse"
    distillation_temperature: float = FeatureDistance.temperature  # of "kl"
    distillation_standardise: bool = False
    distillation_stop_gradient: bool = True
    distillation_projection: ProjectionKind = "convolution"
    lambda_projection: float = 1.0
    lambda_progressive: float = 0.1
    ramp_fraction: float = 0.1

    @classmethod
    def in_short(cls) -> dict[str, str]:
        terms = ", ".join(f"{term} {getattr(cls, f'lambda_{term}'):g}" for term in cls.distillation_terms)
        distance = "" if cls.distillation_distance == "mse" else f" ({cls.distillation_distance})"
        return {**super().in_short(), "terms": terms + distance}

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        check_names(type(self).__name__, self._named_modules())

    def _named_modules(self) -> BothSides:
        return self.distillation_encoder, self.distillation_decoder

    @cached_property
    def distilled_stages(self) -> tuple[Sequence[StageInfo], Sequence[StageInfo]]:
        """The encoder's and the decoder's, highest resolution first."""
        image = torch.zeros(1, self.num_input_channels, *self.configuration_manager.patch_size, device=self.device)
        return stages_of(type(self).__name__, unwrap_model(self.network), self._named_modules(), image)

    @cached_property
    def distillation(self) -> DualSelfDistillation:
        """The terms with their projections, made at the first use: when the optimiser is, or the loss."""
        if "progressive" in self.distillation_terms and max(map(len, self.distilled_stages)) < 2:
            raise UserValueError(
                f"{type(self).__name__} has one stage on each side, and the progressive term compares neighbours of "
                'one side: name more modules, or leave the term out (distillation_terms = ("projection",))'
            )
        with torch.random.fork_rng(devices=()):  # what is drawn afterwards is drawn as without distillation
            distillation = DualSelfDistillation.from_stages(
                *self.distilled_stages,
                terms=self.distillation_terms,
                distance=self.distillation_distance,
                temperature=self.distillation_temperature,
                standardise=self.distillation_standardise,
                stop_gradient=self.distillation_stop_gradient,
                projection=self.distillation_projection,
            )
        return distillation.to(self.device)

    @property
    def loss(self) -> Any:
        """What nnU-Net calls with the network's output and the target; never without the terms."""
        return self._loss

    @loss.setter
    def loss(self, loss: Any) -> None:
        distilled = loss is None or isinstance(loss, SegmentationWithDistillationLoss)
        self._loss = loss if distilled else self._with_distillation(loss)

    def _with_distillation(self, segmentation_loss: Any) -> SegmentationWithDistillationLoss:
        not_ignored = None
        if self.label_manager.has_ignore_label:
            not_ignored = partial(
                pixels_not_ignored,
                ignore_label=self.label_manager.ignore_label,
                has_regions=self.label_manager.has_regions,
            )
        return SegmentationWithDistillationLoss(
            segmentation_loss,
            self._wrapped_distillation,
            {"projection": self.lambda_projection, "progressive": self.lambda_progressive},
            self._ramp_epochs(),
            not_ignored,
            share_of_all_ranks if self.is_ddp else None,
            lambda: self.current_epoch,
            self.distilled_stages[0][0].stride if passes_on_features(unwrap_model(self.network)) else None,
            lambda: unwrap_model(self.network).training,
        )

    @cached_property
    def _wrapped_distillation(self) -> nn.Module:
        """In the wrappers that nnU-Net gives the network; a network with features of its own records CUDA graphs."""
        distillation: nn.Module = self.distillation
        if self._do_i_compile() and not passes_on_features(unwrap_model(self.network)):
            distillation = compiled_terms(self.distillation)
        if self.is_ddp and any(True for _ in distillation.parameters()):
            distillation = in_ddp(distillation)
        return distillation

    def trained_modules(self) -> list[nn.Module]:
        return [*super().trained_modules(), self.distillation]

    def configure_optimizers(self, *args: Any, **keywords: Any):
        optimizer, schedule = super().configure_optimizers(*args, **keywords)
        self._train_projections_too(optimizer)
        return optimizer, schedule

    def _train_projections_too(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts projections that an optimiser does not know into its group with the highest learning rate.

        Into a group that is there: a schedule of torch's remembers the rates of the groups that it was made for.
        """
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [parameter for parameter in self.distillation.parameters() if id(parameter) not in known]
        if missing:
            max(optimizer.param_groups, key=lambda group: group["lr"])["params"].extend(missing)

    def initialize(self):
        super().initialize()
        self._train_projections_too(self.optimizer)  # where configure_optimizers of a class in front stands alone
        network = unwrap_model(self.network)
        return_features(network, self._named_modules())
        if passes_on_features(network):
            self.distillation.cuda_graphs.training = network.cuda_graphs.training
        self._add_log_keys()

    def on_train_start(self):
        super().on_train_start()
        self.print_to_log_file("distilled stages: " + ", ".join(map(in_words, itertools.chain(*self.distilled_stages))))

    def on_train_epoch_end(self, train_outputs: list[dict]):
        super().on_train_epoch_end(train_outputs)
        # Without a term, as in steps with a loss of their own, the logger needs a value all the same.
        values = dict.fromkeys((LOG_KEYS[name] for name in (SEGMENTATION, *self.distillation_terms)), float("nan"))
        terms = self._mean_terms_of_all_ranks()
        if terms and self.loss.epoch_of_terms == self.current_epoch:
            values |= {LOG_KEYS[name]: value for name, value in terms.items()}
        else:
            self.print_to_log_file(f"Epoch {self.current_epoch} was trained without the distillation: {NO_FEATURES}")
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
        terms = {LOG_KEYS[name]: value.item() for name, value in self.loss.last_terms.items()}
        return {**super().loss_terms_of_last_step(), **terms}

    def distillation_settings(self) -> dict[str, Any]:
        network, tapped = unwrap_model(self.network), {}
        if not passes_on_features(network):
            modules = modules_to_tap(network, self._named_modules())
            tapped = {side: list(names) for side, names in zip(("encoder", "decoder"), modules, strict=True)}
        return {
            **tapped,
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

    def own_checkpoint_entry(self) -> dict[str, Any]:
        projections, settings = self.distillation.state_dict(), self.distillation_settings()
        return {**super().own_checkpoint_entry(), "projections": projections, "settings": settings}

    def restore_own_entry(self, entry: Mapping[str, Any]) -> None:
        super().restore_own_entry(entry)
        self.distillation.load_state_dict(entry.get("projections") or {})
        settings = self.distillation_settings()
        if entry.get("settings") != settings:
            self.print_to_log_file(
                f"Distillation from here on: {settings}; the checkpoint was trained with {entry.get('settings')}"
            )
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
        of_ranks = self.of_all_ranks(self.loss.mean_terms())
        return {name: sum(terms[name] for terms in of_ranks) / len(of_ranks) for name in of_ranks[0]}
