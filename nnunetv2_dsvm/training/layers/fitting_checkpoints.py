"""The layer of checkpoints: read only where they fit, kept when a new training begins, and the best never missed."""

import os
from collections.abc import Mapping
from typing import Any

from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.nnunet.names import BEST
from nnunetv2_dsvm.training.checkpoints.compatibility import (
    check_same_distillation,
    check_same_network,
    check_same_optimizer,
)
from nnunetv2_dsvm.training.checkpoints.continuing import (
    last_epoch_of_later_best,
    save_at_least_every,
    where_it_goes_on,
)
from nnunetv2_dsvm.training.checkpoints.files import (
    in_a_file,
    read_checkpoint,
    remove_leftovers,
    set_earlier_training_aside,
)
from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks
from nnunetv2_dsvm.version import __version__


class FittingCheckpoints(TrainerHooks):
    """Continues from a checkpoint of the same network, distillation and optimiser only; keeps an earlier training's."""

    continued_from: str | None = None  # the checkpoint that was loaded
    _best_ema: float | None  # nnU-Net's

    def on_train_start(self):
        self.save_every = save_at_least_every(self.save_every)
        if self.local_rank == 0:
            remove_leftovers(self.output_folder)
            begins = self.current_epoch == 0 and not self.disable_checkpointing
            if earlier := set_earlier_training_aside(self.output_folder) if begins else []:
                self.print_to_log_file(f"An earlier training's checkpoints are now {', '.join(earlier)}")
        super().on_train_start()
        if line := where_it_goes_on(self, self.continued_from):
            self.print_to_log_file(line)

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
        check_same_network(filename_or_checkpoint, checkpoint, unwrap_model(self.network).state_dict())
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
