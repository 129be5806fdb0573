"""The layer of surroundings: device, data, folders, memory and processes, checked before and while they are needed."""

import contextlib
import os

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.folders import check_usable_folders
from nnunetv2_dsvm.nnunet.listing import cases_passing_over_litter
from nnunetv2_dsvm.training.guards import out_of_memory
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
from nnunetv2_dsvm.training.guards.surroundings import (
    check_device,
    check_equal_shares,
    check_segmentations,
    check_writable,
    explaining_unwritable,
    unwritable,
)
from nnunetv2_dsvm.training.layers.trainer_hooks import TrainerHooks


class CheckedSurroundings(TrainerHooks):
    """Refuses what cannot be trained here before nnU-Net writes a file; later faults become sentences on what to do."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        check_plans_of_folder(type(self).__name__, plans, configuration, dataset_json)
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

    def initialize(self):
        check_preprocessing(self)
        with cases_passing_over_litter():
            super().initialize()

    def run_training(self):
        with ending_loaders(self):
            super().run_training()

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
        with explaining_unwritable(self.output_folder):
            super().on_train_start()

    def on_epoch_end(self):
        with explaining_unwritable(self.output_folder):
            super().on_epoch_end()

    def train_step(self, batch: dict) -> dict:
        with self._explaining_out_of_memory("training"):
            return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        with self._explaining_out_of_memory("validation"):
            return super().validation_step(batch)

    @cases_passing_over_litter()
    def perform_actual_validation(self, save_probabilities: bool = False):
        check_ground_truth(self, self.do_split()[1])
        with self._explaining_out_of_memory("the final validation"), explaining_unwritable(self.output_folder):
            super().perform_actual_validation(save_probabilities)

    def _explaining_out_of_memory(self, what: str) -> contextlib.AbstractContextManager:
        return out_of_memory.explained(
            what,
            self.configuration_name,
            self.plans_manager.plans_name,
            self.configuration_manager.patch_size,
            self.batch_size,
        )
