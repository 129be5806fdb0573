"""The study's five trainers: alike in everything but what they are compared for.

nnU-Net finds them by the variable `nnUNet_extTrainer`, to which `run_grid.py` adds this folder. Whatever a run varies
comes as JSON in ACCURACY_STUDY_SETTINGS: names of a trainer's attributes and their values.
"""

import json
import os
import platform

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.host.versions import installed_version
from nnunetv2_dsvm.planning.network_of_plans import build_vm_unet
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.seeding import seed_all, seed_from_environment
from nnunetv2_dsvm.training.variants import (
    FixedOrientation,
    nnUNetTrainerDSVM_progressive,
    nnUNetTrainerDSVM_projection,
)
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

SETTINGS_VARIABLE = "ACCURACY_STUDY_SETTINGS"


def settings() -> dict:
    return json.loads(os.environ[SETTINGS_VARIABLE])


class StudySettings(FixedOrientation):
    """What all trainers of the study share: the orientation of the scans, the length, the seed, and what is kept.

    Both datasets show the patient one way up, so that no trainer, nnU-Net's own neither, flips or turns by more than
    15°. A training keeps its last weights only: nothing is chosen on the way, and the disk does not count as time.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name, value in settings().items():
            if not hasattr(self, name):
                raise ValueError(f"{type(self).__name__} has no setting {name!r} (given the value {value!r})")
            setattr(self, name, value)
        self.seed = seed_from_environment() or 0
        self.disable_checkpointing = True
        self.logger.plot_progress_png = lambda folder: None  # takes a second of each epoch

    def initialize(self):
        seed_all(self.seed)
        super().initialize()

    def on_epoch_start(self):
        seed_all(self.seed, self.current_epoch, self.local_rank)
        super().on_epoch_start()

    def on_epoch_end(self):
        super().on_epoch_end()
        self._write("history.json", self.logger.local_logger.my_fantastic_logging)

    def on_train_end(self):
        self.disable_checkpointing = False
        super().on_train_end()
        distillation = getattr(self, "distillation", None)
        self._write(
            "facts.json",
            {
                "parameters": sum(p.numel() for p in self.network.parameters()),
                "parameters_of_the_distillation": sum(p.numel() for p in distillation.parameters())
                if distillation
                else 0,
                "device": torch.cuda.get_device_name() if self.device.type == "cuda" else platform.machine(),
                "python": platform.python_version(),
                **{name: installed_version(name) for name in ("torch", "nnunetv2", "nnunetv2_dsvm")},
            },
        )

    def perform_actual_validation(self, save_probabilities: bool = False):
        if self.fold != "all":  # else it would predict what it was trained on
            super().perform_actual_validation(save_probabilities)

    def _write(self, name: str, content: dict) -> None:
        with open(os.path.join(self.output_folder, name), "w", encoding="utf-8") as file:
            json.dump(content, file, default=float)


class VMUNetSettings(StudySettings):
    """What the trainers of a VM-UNet take besides: `enable_deep_supervision`, and the recipe's `precision`."""

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        return build_vm_unet(
            configuration_manager,
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
            auxiliary_heads=settings().get("enable_deep_supervision", False),  # prediction must load them too
        )


class nnUNetTrainer_study(StudySettings, nnUNetTrainer):
    """nnU-Net's own trainer: its network, loss, optimiser and schedule."""


class nnUNetTrainerVMUNet_study(VMUNetSettings, nnUNetTrainerVMUNet):
    """VM-UNet without distillation."""


class nnUNetTrainerDSVM_study(VMUNetSettings, nnUNetTrainerDSVM):
    """VM-UNet with both terms."""


class nnUNetTrainerDSVM_projection_study(VMUNetSettings, nnUNetTrainerDSVM_projection):
    """VM-UNet with the global term."""


class nnUNetTrainerDSVM_progressive_study(VMUNetSettings, nnUNetTrainerDSVM_progressive):
    """VM-UNet with the local term."""
