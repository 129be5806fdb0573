"""The layer of finite numbers: a training stops before NaN reaches a checkpoint, and names where it came from."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import distributed as dist

from nnunetv2_dsvm.architecture.precision import VARIABLE as PRECISION_VARIABLE
from nnunetv2_dsvm.architecture.precision import inference_in_float32
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.training.guards import messages
from nnunetv2_dsvm.training.guards.distributed import parameters_that_differ
from nnunetv2_dsvm.training.guards.finite_checks import (
    cases_not_finite,
    ct_channels_not_finite,
    dataset_cases_not_finite,
    gradients_finite,
    parameters_not_finite,
)
from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks


class FiniteTraining(TrainerHooks):
    """Looks at losses, gradients, weights and images on every rank; a stop says what it was and how to go on."""

    def on_train_start(self):
        ruined, count = parameters_not_finite(self.trained_modules()) if self.was_initialized else ([], 0)
        if ruined:
            raise UserError(
                f"{len(ruined)} of {count} parameters are not finite before the first step, the first being "
                f"{ruined[0]}: the file they came from (-pretrained_weights, or the checkpoint of --c) is damaged. "
                "Nothing was trained or changed"
            )
        super().on_train_start()

    def train_step(self, batch: dict) -> dict:
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
        result = super().validation_step(batch)
        # The Dice of such logits is that of background; of finite ones the loss may be 0/0, see train_step.
        if not np.isfinite(result["loss"]) and not self._logits_finite(batch["data"]):
            self._stop(f"the validation loss became {result['loss']}")
        return result

    @torch.no_grad()
    def _logits_finite(self, images: torch.Tensor) -> bool:
        with torch.autocast("cuda", enabled=self.device.type == "cuda"):
            logits = unwrap_model(self.network)(images.to(self.device))
        return all(bool(t.isfinite().all()) for t in ([logits] if isinstance(logits, torch.Tensor) else logits))

    def perform_actual_validation(self, save_probabilities: bool = False):
        try:
            super().perform_actual_validation(save_probabilities)
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError) as error:  # the network's, or on a GPU nnU-Net's: neither knows the case
            self._name_validation_cases_not_finite(error)
            if "inf in predicted" not in str(error):  # nnU-Net's words where logits are infinite, on a GPU
                raise
            self._validate_in_float32(save_probabilities, error)

    def _name_validation_cases_not_finite(self, error: Exception) -> None:
        _, keys = self.do_split()
        if cases := dataset_cases_not_finite(self.dataset_class(self.preprocessed_dataset_folder, keys)):
            raise UserError(
                f"The final validation stopped: the images of {', '.join(cases)} hold NaN or infinite values. The "
                "checkpoints are as they were. Correct the files, preprocess them again, and repeat it with --val"
            ) from error

    def _validate_in_float32(self, save_probabilities: bool, error: Exception) -> None:
        """A training in bfloat16 can end with a network whose logits exceed float16, in which nnU-Net predicts."""
        ours = isinstance(unwrap_model(self.network), SegmentationNetwork)
        named = os.environ.get(PRECISION_VARIABLE)
        if named or self.is_ddp or not ours:  # ranks fail each at its own case
            way = f"Set {PRECISION_VARIABLE}=float32, for predictions too, and repeat it with --val"
            raise UserError(
                "The final validation stopped: the images are finite, but the network's logits exceed the range of "
                f"{named or 'float16, in which nnU-Net predicts on a GPU'}. The checkpoints are as they were. "
                f"{way if ours else 'Repeat it with --val -device cpu, and predict with -device cpu'}"
            ) from error
        self.print_to_log_file(
            "The final validation is repeated in float32: the images are finite, but the network's logits exceed the "
            f"range of float16, in which nnU-Net predicts on a GPU. Set {PRECISION_VARIABLE}=float32 to predict with "
            "these checkpoints"
        )
        with inference_in_float32():
            super().perform_actual_validation(save_probabilities)

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
