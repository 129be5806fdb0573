"""The layer of reliability: refusals, finite numbers, stops, memory, ranks, seeds, checkpoints that fit."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import distributed as dist

from nnunetv2_dsvm.architecture.precision import VARIABLE as PRECISION_VARIABLE
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.folders import check_usable_folders
from nnunetv2_dsvm.nnunet.listing import cases_passing_over_litter
from nnunetv2_dsvm.nnunet.names import BEST
from nnunetv2_dsvm.training.checkpoints.compatibility import (
    check_same_distillation,
    check_same_network,
    check_same_optimizer,
)
from nnunetv2_dsvm.training.checkpoints.continuing import last_epoch_of_later_best, where_it_goes_on
from nnunetv2_dsvm.training.checkpoints.files import (
    in_a_file,
    read_checkpoint,
    remove_leftovers,
    set_earlier_training_aside,
)
from nnunetv2_dsvm.training.guards import messages, out_of_memory
from nnunetv2_dsvm.training.guards.distributed import parameters_that_differ
from nnunetv2_dsvm.training.guards.finite_checks import (
    cases_not_finite,
    ct_channels_not_finite,
    dataset_cases_not_finite,
    gradients_finite,
    parameters_not_finite,
)
from nnunetv2_dsvm.training.guards.other_plans import check_plans_of_folder
from nnunetv2_dsvm.training.guards.preflight import (
    check_cases,
    check_fingerprint,
    check_ground_truth,
    check_preprocessing,
)
from nnunetv2_dsvm.training.guards.processes import (
    ending_loaders,
    fork_to_end_with_this_one,
    spawn_to_end_with_this_one,
)
from nnunetv2_dsvm.training.guards.refusals import end_in_a_sentence
from nnunetv2_dsvm.training.guards.surroundings import (
    check_device,
    check_equal_shares,
    check_segmentations,
    check_writable,
    explaining_unwritable,
    unwritable,
)
from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks
from nnunetv2_dsvm.training.seeding import deterministic_algorithms, seed_all, seed_from_environment
from nnunetv2_dsvm.version import __version__

end_in_a_sentence()


class ReliableTraining(TrainerHooks):
    """A training that stops with a sentence instead of going on wrongly, repeats by a seed, and loses no checkpoint."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        check_plans_of_folder(type(self).__name__, plans, configuration, dataset_json)
        self.continued_from: str | None = None  # the checkpoint that was loaded
        try:
            super().__init__(plans, configuration, fold, dataset_json, device)
        except OSError as error:
            raise UserError(unwritable(os.environ.get("nnUNet_results", ""), error)) from error
        check_writable(self.output_folder)

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        super().preflight(planned, device)
        check_device(device)
        check_equal_shares(planned)
        check_usable_folders("preprocessed", "results")
        self.seed = seed_from_environment()
        if self.seed is not None:
            self.check_not_cut_off("on_epoch_start", "the seed of each epoch")

    def is_deterministic(self) -> bool:
        return self.seed is not None

    def initialize(self):
        check_preprocessing(self)
        if self.seed is not None:
            seed_all(self.seed)
        with cases_passing_over_litter():
            super().initialize()

    def run_training(self):
        with ending_loaders(self), self._as_seeded():
            super().run_training()

    def _as_seeded(self) -> contextlib.AbstractContextManager:
        return deterministic_algorithms() if self.is_deterministic() else contextlib.nullcontext()

    def get_dataloaders(self):
        with fork_to_end_with_this_one():
            return super().get_dataloaders()

    def get_tr_and_val_datasets(self):
        with cases_passing_over_litter():
            datasets = super().get_tr_and_val_datasets()
        spawn_to_end_with_this_one(datasets)
        check_cases(self, datasets)
        check_ground_truth(self, datasets[1].identifiers)
        if self.is_cascaded:
            cases = {case for dataset in datasets for case in dataset.identifiers}
            previous_stage = self.configuration_manager.previous_stage_name
            check_segmentations(cases, self.folder_with_segs_from_previous_stage, previous_stage)
        return datasets

    def on_train_start(self):
        check_fingerprint(self)
        ruined, count = parameters_not_finite(self.trained_modules()) if self.was_initialized else ([], 0)
        if ruined:
            raise UserError(
                f"{len(ruined)} of {count} parameters are not finite before the first step, the first being "
                f"{ruined[0]}: the file they came from (-pretrained_weights, or the checkpoint of --c) is damaged. "
                "Nothing was trained or changed"
            )
        if self.local_rank == 0:
            remove_leftovers(self.output_folder)
            if self.current_epoch == 0 and not self.disable_checkpointing:
                if earlier := set_earlier_training_aside(self.output_folder):
                    self.print_to_log_file(f"An earlier training's checkpoints are now {', '.join(earlier)}")
        with explaining_unwritable(self.output_folder):
            super().on_train_start()
        if line := where_it_goes_on(self, self.continued_from):
            self.print_to_log_file(line)
        self.print_to_log_file(f"nnunetv2_dsvm {__version__}, seed {self.seed}")

    def on_epoch_start(self):
        if self.seed is not None:  # from the epoch alone, so that a continued run draws what an uninterrupted one would
            seed_all(self.seed, self.current_epoch, self.local_rank)
        super().on_epoch_start()

    def on_epoch_end(self):
        with explaining_unwritable(self.output_folder):
            super().on_epoch_end()

    def train_step(self, batch: dict) -> dict:
        with self._explaining_out_of_memory("training"), self._as_seeded():  # also in a run_training of another class
            result = super().train_step(batch)
        # nnU-Net's cross-entropy (not with Dice) of a map without a labelled pixel is 0/0, and its gradient 0.
        if not self._on_all_ranks(bool(np.isfinite(result["loss"])) or gradients_finite(self.trained_modules())):
            losses, cases = zip(*self.of_all_ranks((float(result["loss"]), cases_not_finite(batch))), strict=True)
            bad = [f"{loss} on GPU {rank}" for rank, loss in enumerate(losses) if not np.isfinite(loss)]
            what = f"the training loss became {', '.join(bad) if self.is_ddp else losses[0]}"
            self._stop(what, sorted({case for of_rank in cases for case in of_rank}))
        return result

    def validation_step(self, batch: dict) -> dict:
        if cases := cases_not_finite(batch):
            self._stop("an image of the validation is not finite", cases)
        with self._explaining_out_of_memory("validation"):
            result = super().validation_step(batch)
        # The Dice of such logits is that of background; of finite ones the loss may be 0/0, see train_step.
        if not np.isfinite(result["loss"]) and not self._logits_finite(batch["data"]):
            self._stop(f"the validation loss became {result['loss']}")
        return result

    @torch.no_grad()
    def _logits_finite(self, images: torch.Tensor) -> bool:
        with torch.autocast("cuda", enabled=self.device.type == "cuda"):
            logits = self.bare_network()(images.to(self.device))
        return all(bool(t.isfinite().all()) for t in ([logits] if isinstance(logits, torch.Tensor) else logits))

    @cases_passing_over_litter()
    def perform_actual_validation(self, save_probabilities: bool = False):
        check_ground_truth(self, self.do_split()[1])
        with self._explaining_out_of_memory("the final validation"), explaining_unwritable(self.output_folder):
            try:
                super().perform_actual_validation(save_probabilities)
            except torch.OutOfMemoryError:
                raise
            except (ValueError, RuntimeError) as error:  # the network's, or on a GPU nnU-Net's: neither knows the case
                self._name_validation_cases_not_finite(error)
                raise

    def _name_validation_cases_not_finite(self, error: Exception) -> None:
        _, keys = self.do_split()
        if cases := dataset_cases_not_finite(self.dataset_class(self.preprocessed_dataset_folder, keys)):
            raise UserError(
                f"The final validation stopped: the images of {', '.join(cases)} hold NaN or infinite values. The "
                "checkpoints are as they were. Correct the files, preprocess them again, and repeat it with --val"
            ) from error
        if "inf in predicted" in str(error):  # nnU-Net's words where the network's logits are infinite, on a GPU
            raise UserError(
                "The final validation stopped: the images are finite, but the network's logits exceed the range of "
                "float16, in which nnU-Net predicts on a GPU. The checkpoints are as they were. Set "
                f"{PRECISION_VARIABLE}=float32 (or bfloat16), for predictions too, and repeat it with --val"
            ) from error

    def on_validation_epoch_end(self, val_outputs: list[dict]):
        super().on_validation_epoch_end(val_outputs)
        # Without any foreground, drawn or predicted, the Dice is 0/0. nnU-Net's moving average would stay NaN from then
        # on and no checkpoint would ever be the best: it keeps its value instead.
        average = self.logger.local_logger.my_fantastic_logging["ema_fg_dice"]
        if np.isnan(average[-1]):
            average[-1] = average[-2] if len(average) > 1 else 0.0

    def on_train_epoch_end(self, train_outputs: list[dict]):
        super().on_train_epoch_end(train_outputs)
        # A gradient that is not finite ruins the weights while the loss before it was fine: look before a checkpoint is
        # written. DDP keeps the weights of all ranks equal, to the bit: where they are not, every rank stops.
        differing = parameters_that_differ(self.trained_modules()) if self.is_ddp else []
        ruined, count = parameters_not_finite(self.trained_modules())
        if ruined:
            self._stop(f"{len(ruined)} of {count} parameters are no longer finite, the first being {ruined[0]}")
        if differing:
            self._stop(
                f"{len(differing)} of {count} parameters differ between GPUs, the first being {differing[0]}",
                advice="train on one GPU, and report it",
            )

    def _on_all_ranks(self, condition: bool) -> bool:
        if not self.is_ddp:
            return condition
        flag = torch.tensor(float(condition), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag.item())

    def _explaining_out_of_memory(self, what: str) -> contextlib.AbstractContextManager:
        return out_of_memory.explained(
            what,
            self.configuration_name,
            self.plans_manager.plans_name,
            self.configuration_manager.patch_size,
            self.batch_size,
        )

    def _stop(self, what: str, cases: Sequence[str] = (), advice: str = messages.ADVICE) -> None:
        message = messages.message(
            f"in epoch {self.current_epoch}: {what}",
            terms=self.loss_terms_of_last_step(),
            cases=cases,
            channels=ct_channels_not_finite(self.plans_manager, self.configuration_manager) if cases else (),
            folder=self.output_folder,
            advice=advice,
        )
        self.print_to_log_file(message, also_print_to_console=False)
        raise UserError(message)

    def own_checkpoint_entry(self) -> dict[str, Any]:
        return {"version": __version__, **super().own_checkpoint_entry()}

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        if isinstance(filename_or_checkpoint, Mapping):
            with in_a_file(filename_or_checkpoint, self.output_folder) as filename:
                self.load_checkpoint(filename)
            self.continued_from = "the dictionary"
            return
        if not self.was_initialized:
            self.initialize()
        checkpoint, own = read_checkpoint(filename_or_checkpoint), self.own_checkpoint_entry()
        check_same_network(filename_or_checkpoint, checkpoint, self.bare_network().state_dict())
        check_same_distillation(filename_or_checkpoint, checkpoint, own, type(self).__name__)
        check_same_optimizer(filename_or_checkpoint, checkpoint, self.optimizer)
        super().load_checkpoint(filename_or_checkpoint)
        self.continued_from = filename_or_checkpoint
        self._catch_up_with_the_best()

    def _catch_up_with_the_best(self) -> None:
        """Makes the loaded epoch the best where it is: nnU-Net writes the latest checkpoint before it finds out.

        A run killed between the two would otherwise never write it, and take a worse epoch for the best afterwards. A
        best one of an epoch that comes later stays: the interrupted training was ahead of its latest checkpoint.
        """
        averages = self.logger.get_value("ema_fg_dice", step=None)
        if averages and (self._best_ema is None or averages[-1] > self._best_ema):
            self._best_ema = averages[-1]
            if last_epoch_of_later_best(self.output_folder, self.current_epoch) is not None:
                return
            self.current_epoch -= 1  # save_checkpoint stores the epoch that comes next
            self.save_checkpoint(os.path.join(self.output_folder, BEST))
            self.current_epoch += 1
