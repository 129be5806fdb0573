"""nnUNetTrainerVMUNet: nnU-Net's trainer with the VM-UNet and its recipe, and without distillation."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet_folders import refuse_unusable_folders
from nnunetv2_dsvm.training import out_of_memory, stopping
from nnunetv2_dsvm.training.checkpoint_files import (
    KEY,
    in_a_file,
    read_checkpoint,
    remove_leftovers,
    set_earlier_training_aside,
    write_checkpoint,
)
from nnunetv2_dsvm.training.checkpoint_fit import (
    refuse_other_distillation,
    refuse_other_network,
    refuse_other_optimizer,
)
from nnunetv2_dsvm.training.continuing import last_epoch_of_later_best, where_it_goes_on
from nnunetv2_dsvm.training.finite import (
    cases_not_finite,
    ct_channels_not_finite,
    dataset_cases_not_finite,
    parameters_not_finite,
)
from nnunetv2_dsvm.training.network import build_vm_unet, in_words, refuse_constant_output, refuse_unless_2d
from nnunetv2_dsvm.training.optimization import WarmupCosineSchedule, parameter_groups
from nnunetv2_dsvm.training.other_plans import refuse_mixed_plans
from nnunetv2_dsvm.training.precision import bf16_autocast, trains_in_bf16
from nnunetv2_dsvm.training.preflight import (
    refuse_missing_cases,
    refuse_missing_fingerprint,
    refuse_missing_ground_truth,
    refuse_missing_preprocessing,
)
from nnunetv2_dsvm.training.processes import (
    ending_loaders,
    forked_to_end_with_this_one,
    spawned_to_end_with_this_one,
)
from nnunetv2_dsvm.training.ranks import parameters_that_differ
from nnunetv2_dsvm.training.refusals import end_in_a_sentence
from nnunetv2_dsvm.training.seeding import deterministic_algorithms, seed_all, seed_from_environment
from nnunetv2_dsvm.training.surroundings import (
    explaining_unwritable,
    refuse_missing_device,
    refuse_missing_segmentations,
    refuse_unequal_shares,
    refuse_unwritable,
    unwritable,
)
from nnunetv2_dsvm.version import __version__

end_in_a_sentence()


class nnUNetTrainerVMUNet(nnUNetTrainer):
    """Trains a plain VM-UNet (arXiv 2402.02491) inside nnU-Net: the control beside `nnUNetTrainerDSVM`.

    From VM-UNet's published recipe: the network, AdamW with a learning rate of 1e-3 and a weight decay of 1e-2, one
    cosine to 1e-5, 300 epochs, no deep supervision. nnU-Net's: data, augmentation, patch and batch size, loss (Dice +
    CE, or Dice + BCE for regions), 250 iterations per epoch, gradient clipping, validation, inference. Ours: no weight
    decay on A_log, D, biases and norms; a linear warm-up over a thirtieth of the epochs; random initial weights (the
    recipe starts from ImageNet's); bf16 where the GPU has it; a stop at the first loss that is not finite; repeatable
    runs by NNUNETV2_DSVM_SEED (two CPU runs with nnUNet_n_proc_DA=0 give the same losses).

    A variant overrides one of the class attributes below.
    """

    default_num_epochs: int = 300
    default_initial_lr: float = 1e-3
    default_weight_decay: float = 1e-2
    final_lr_fraction: float = 1e-2
    warmup_fraction: float = 1 / 30
    default_deep_supervision: bool = False
    # For an encoder with pretrained weights (nnU-Net's -pretrained_weights, see `nnUNetv2_dsvm convert-weights`):
    encoder_lr_factor: float = 1.0  # its learning rate, as a multiple of the rest's
    frozen_encoder_epochs: int = 0  # epochs, from the first on, in which its weights stay as they are

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net's own signature)
    ):
        planned = PlansManager(plans).get_configuration(configuration)
        refuse_unless_2d(planned)  # before nnU-Net creates a folder
        refuse_constant_output(planned)
        refuse_missing_device(device)
        refuse_unequal_shares(planned)
        refuse_unusable_folders("preprocessed", "results")
        refuse_mixed_plans(type(self).__name__, plans, configuration, dataset_json)
        self.seed = seed_from_environment()
        try:
            super().__init__(plans, configuration, fold, dataset_json, device)
        except OSError as error:
            raise UserError(unwritable(os.environ.get("nnUNet_results", ""), error)) from error
        refuse_unwritable(self.output_folder)
        self.num_epochs = self.default_num_epochs
        self.initial_lr = self.default_initial_lr
        self.weight_decay = self.default_weight_decay
        self.enable_deep_supervision = self.default_deep_supervision
        self.continued_from: str | None = None  # the checkpoint that was loaded
        self.distillation: nn.Module | None = None  # trained beside the network; None: nothing to distil

    # --- building -----------------------------------------------------------------------------------------------------

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """A VM-UNet of the size the plans give, else of the published one; also called at inference."""
        return build_vm_unet(
            configuration_manager,
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
            auxiliary_heads=enable_deep_supervision,
        )

    def initialize(self):
        refuse_missing_preprocessing(
            self.preprocessed_dataset_folder_base,
            self.preprocessed_dataset_folder,
            self.plans_manager.plans_name,
            self.configuration_name,
        )
        if self.seed is not None:
            seed_all(self.seed)
        if trains_in_bf16(self.device):
            self.grad_scaler = None  # bf16 has the range of fp32
        super().initialize()
        self.bare_network().cuda_graphs.training = self._records_graphs()

    def _records_graphs(self) -> bool:
        # With auxiliary heads and deterministic algorithms, recording failed on an H200 and left the stream unusable.
        return not (self._do_i_compile() or (self.enable_deep_supervision and self.seed is not None))

    def _do_i_compile(self):
        # CUDA graphs take away what torch.compile would, without its minute of compiling: only on request.
        return os.environ.get("nnUNet_compile", "0").lower() in ("true", "1", "t") and super()._do_i_compile()

    def configure_optimizers(self):
        # Only where it is asked for: two groups more or less would not fit an earlier checkpoint's.
        apart = self.bare_network().encoder if self._encoder_is_apart() else None
        groups = parameter_groups(self._trained_modules(), self.weight_decay, apart)
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

    def _encoder_is_apart(self) -> bool:
        return self.encoder_lr_factor != 1 or self.frozen_encoder_epochs > 0

    def bare_network(self) -> VMUNet:
        """The network without the wrappers of DDP and torch.compile."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def _trained_modules(self) -> list[nn.Module]:
        return [self.bare_network(), *([] if self.distillation is None else [self.distillation])]

    def set_deep_supervision_enabled(self, enabled: bool):
        # nnU-Net turns it on after every validation, also for trainers that have it off and never trained those heads.
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """The size of each output, largest first, as a fraction of the patch: 1, 1/4, 1/8, 1/16, rounded up to pixels.

        nnU-Net reads its own network's scales from the plans; ours has no output at half the resolution.
        """
        if not self.enable_deep_supervision:
            return None
        strides = [1, *(4 * 2**level for level in range(len(self.bare_network().decoder.seg_layers) - 1))]
        return [[-(-size // s) / size for size in self.configuration_manager.patch_size] for s in strides]

    # --- training -----------------------------------------------------------------------------------------------------

    def run_training(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(ending_loaders(self))
            if trains_in_bf16(self.device):
                stack.enter_context(bf16_autocast())
            if self.seed is not None:
                stack.enter_context(deterministic_algorithms())
            super().run_training()

    def get_dataloaders(self):
        with forked_to_end_with_this_one():
            return super().get_dataloaders()

    def get_tr_and_val_datasets(self):
        datasets = super().get_tr_and_val_datasets()
        spawned_to_end_with_this_one(datasets)
        folder, cases = self.preprocessed_dataset_folder, {case for data in datasets for case in data.identifiers}
        splits_file = os.path.join(self.preprocessed_dataset_folder_base, "splits_final.json")
        refuse_missing_cases(cases, self.dataset_class.get_identifiers(folder), folder, splits_file)
        self._refuse_missing_ground_truth(datasets[1].identifiers)
        if self.is_cascaded:
            previous_stage = self.configuration_manager.previous_stage_name
            refuse_missing_segmentations(cases, self.folder_with_segs_from_previous_stage, previous_stage)
        return datasets

    def on_train_start(self):
        refuse_missing_fingerprint(self.preprocessed_dataset_folder_base)
        ruined, count = parameters_not_finite(self._trained_modules()) if self.was_initialized else ([], 0)
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
        if self.device.type == "cuda":
            precision = "bf16" if self.grad_scaler is None else "fp16 with a gradient scaler"
        else:
            precision = "fp32"
        self.print_to_log_file(f"network: {in_words(self.configuration_manager, self.bare_network())}")
        self.print_to_log_file(f"nnunetv2_dsvm {__version__}: training in {precision}, seed {self.seed}")
        if self._encoder_is_apart():
            self.print_to_log_file(
                f"encoder: frozen for the first {self.frozen_encoder_epochs} epochs, then {self.encoder_lr_factor:g} "
                "times the learning rate of the rest"
            )

    def on_epoch_start(self):
        if self.seed is not None:  # from the epoch alone, so that a continued run draws what an uninterrupted one would
            seed_all(self.seed, self.current_epoch, self.local_rank)
        super().on_epoch_start()

    def on_epoch_end(self):
        with explaining_unwritable(self.output_folder):
            super().on_epoch_end()

    def train_step(self, batch: dict) -> dict:
        with self._explaining_out_of_memory("training"):
            result = super().train_step(batch)
        if not self._on_all_ranks(bool(np.isfinite(result["loss"]))):
            losses, cases = zip(*self._of_all_ranks((float(result["loss"]), cases_not_finite(batch))), strict=True)
            bad = [f"{loss} on GPU {rank}" for rank, loss in enumerate(losses) if not np.isfinite(loss)]
            what = f"the training loss became {', '.join(bad) if self.is_ddp else losses[0]}"
            self._stop(what, sorted({case for of_rank in cases for case in of_rank}))
        return result

    def validation_step(self, batch: dict) -> dict:
        if cases := cases_not_finite(batch):
            self._stop("an image of the validation is not finite", cases)
        with self._explaining_out_of_memory("validation"):
            return super().validation_step(batch)

    def perform_actual_validation(self, save_probabilities: bool = False):
        self._refuse_missing_ground_truth(self.do_split()[1])
        with self._explaining_out_of_memory("the final validation"), explaining_unwritable(self.output_folder):
            try:
                super().perform_actual_validation(save_probabilities)
            except torch.OutOfMemoryError:
                raise
            except (ValueError, RuntimeError) as error:  # the network's, or on a GPU nnU-Net's: neither knows the case
                self._name_validation_cases_not_finite(error)
                raise

    def _refuse_missing_ground_truth(self, cases: Sequence[str]) -> None:
        refuse_missing_ground_truth(cases, self.preprocessed_dataset_folder_base, self.dataset_json["file_ending"])

    def _name_validation_cases_not_finite(self, error: Exception) -> None:
        _, keys = self.do_split()
        if cases := dataset_cases_not_finite(self.dataset_class(self.preprocessed_dataset_folder, keys)):
            raise UserError(
                f"The final validation stopped: the images of {', '.join(cases)} hold NaN or infinite values. The "
                "checkpoints are as they were. Correct the files, preprocess them again, and repeat it with --val"
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
        differing = parameters_that_differ(self._trained_modules()) if self.is_ddp else []
        ruined, count = parameters_not_finite(self._trained_modules())
        if ruined:
            self._stop(f"{len(ruined)} of {count} parameters are no longer finite, the first being {ruined[0]}")
        if differing:
            self._stop(
                f"{len(differing)} of {count} parameters differ between GPUs, the first being {differing[0]}",
                advice="train on one GPU, and report it",
            )

    def loss_terms_of_last_step(self) -> dict[str, float]:
        """The terms that made up the loss of the last step, where there is more than one."""
        return {}

    def _on_all_ranks(self, condition: bool) -> bool:
        if not self.is_ddp:
            return condition
        flag = torch.tensor(float(condition), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag.item())

    def _of_all_ranks(self, value: Any) -> list[Any]:
        if not self.is_ddp:
            return [value]
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, value)
        return gathered

    def _explaining_out_of_memory(self, what: str) -> contextlib.AbstractContextManager:
        return out_of_memory.explained(
            what,
            self.configuration_name,
            self.plans_manager.plans_name,
            self.configuration_manager.patch_size,
            self.batch_size,
        )

    def _stop(self, what: str, cases: Sequence[str] = (), advice: str = stopping.ADVICE) -> None:
        message = stopping.message(
            f"in epoch {self.current_epoch}: {what}",
            terms=self.loss_terms_of_last_step(),
            cases=cases,
            channels=ct_channels_not_finite(self.plans_manager, self.configuration_manager) if cases else (),
            folder=self.output_folder,
            advice=advice,
        )
        self.print_to_log_file(message, also_print_to_console=False)
        raise UserError(message)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def own_checkpoint_entry(self) -> dict[str, Any]:
        """What a checkpoint holds beyond nnU-Net's own entries."""
        return {
            "version": __version__,
            "projections": None if self.distillation is None else self.distillation.state_dict(),
            "settings": self.distillation_settings(),
        }

    def distillation_settings(self) -> dict[str, Any] | None:
        """How the distillation was configured, for the checkpoint; None without one."""
        return None

    def save_checkpoint(self, filename: str) -> None:
        in_memory = io.BytesIO()
        super().save_checkpoint(in_memory)
        if in_memory.tell():  # nothing on the other ranks of DDP, nor with --disable_checkpointing
            write_checkpoint(in_memory, self.own_checkpoint_entry(), filename)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        if isinstance(filename_or_checkpoint, Mapping):
            with in_a_file(filename_or_checkpoint, self.output_folder) as filename:
                self.load_checkpoint(filename)
            self.continued_from = "the dictionary"
            return
        if not self.was_initialized:
            self.initialize()
        checkpoint = read_checkpoint(filename_or_checkpoint)
        entry = checkpoint.get(KEY, {})
        projections = {} if self.distillation is None else self.distillation.state_dict()
        settings, name = self.distillation_settings(), type(self).__name__
        refuse_other_network(filename_or_checkpoint, checkpoint, self.bare_network().state_dict())
        refuse_other_distillation(filename_or_checkpoint, checkpoint, entry, projections, settings, name)
        refuse_other_optimizer(filename_or_checkpoint, checkpoint, self.optimizer)
        super().load_checkpoint(filename_or_checkpoint)
        self.continued_from = filename_or_checkpoint
        if self.distillation is not None:
            self.distillation.load_state_dict(entry.get("projections") or {})
            if entry.get("settings") != settings:
                self.print_to_log_file(
                    f"Distillation from here on: {settings}; the checkpoint was trained with {entry.get('settings')}"
                )
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
            self.save_checkpoint(os.path.join(self.output_folder, "checkpoint_best.pth"))
            self.current_epoch += 1
