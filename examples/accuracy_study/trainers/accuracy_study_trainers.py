"""The study's trainers: those of nnU-Net and of this package, alike in everything but what is compared.

nnU-Net finds them by the variable `nnUNet_extTrainer`, to which `run.py` adds this folder.
"""

import json
import os
import platform

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from recorded_batches import BATCHES, recorded

from nnunetv2_dsvm.host.versions import installed_version
from nnunetv2_dsvm.nnunet.names import BEST
from nnunetv2_dsvm.training.distilled_trainer import nnUNetTrainerDistilled
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.layers.reliable import ReliableTraining
from nnunetv2_dsvm.training.layers.vm_unet_network import VMUNetNetwork
from nnunetv2_dsvm.training.variants import (
    nnUNetTrainerDSVM_SwinUMambaD,
    nnUNetTrainerDSVM_VMUNetV2,
    nnUNetTrainerSwinUMambaD,
    nnUNetTrainerVMUNetV2,
)
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet
from nnunetv2_dsvm.version import __version__

FACTS = "facts.json"
UNMIRRORED = "unmirrored"  # beside nnU-Net's folder of the validation, with one of its own


class Study:
    """50 epochs, a seed, and what is to be known afterwards in `facts.json`.

    The last weights are tested, so that the best ones are not written; algorithms need not be deterministic, for the
    order of what several loading processes bring is not either. Neither changes what is trained. The final validation
    is done twice, first without mirroring, in the folder `UNMIRRORED`.
    """

    num_epochs = 50
    shares_batches = True  # where they are augmented once for all

    @property
    def reads_batches(self):
        return self.shares_batches and BATCHES in os.environ

    def is_deterministic(self):
        return False

    def initialize(self):
        super().initialize()
        self.logger.plot_progress_png = lambda folder: None  # takes a second of each epoch

    def get_dataloaders(self):
        if not self.reads_batches:
            return super().get_dataloaders()
        self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # which sets the axes of inference too
        self.get_tr_and_val_datasets()  # which looks at all files
        return recorded(self)

    def perform_actual_validation(self, save_probabilities=False):
        self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # the checkpoint may be older than the above
        folder, axes = self.output_folder, self.inference_allowed_mirroring_axes
        self.output_folder, self.inference_allowed_mirroring_axes = os.path.join(folder, UNMIRRORED), None
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.output_folder, self.inference_allowed_mirroring_axes = folder, axes
        super().perform_actual_validation(save_probabilities)

    def save_checkpoint(self, filename):
        if os.path.basename(filename) != BEST:
            super().save_checkpoint(filename)

    def on_train_end(self):
        on_gpu = self.device.type == "cuda"
        distillation = getattr(self, "distillation", None)
        projections = 0 if distillation is None else sum(p.numel() for p in distillation.parameters())
        facts = {
            "peak_memory_mib": round(torch.cuda.max_memory_reserved() / 2**20) if on_gpu else None,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "parameters_of_the_distillation": projections,
            "loaders": "shared" if self.reads_batches else os.environ.get("nnUNet_n_proc_DA", ""),
            "gpu": torch.cuda.get_device_name() if on_gpu else "",
            "python": platform.python_version(),
            **{name: installed_version(name) for name in ("torch", "nnunetv2")},
            "nnunetv2_dsvm": __version__,  # also where the package is not installed
        }
        with open(os.path.join(self.output_folder, FACTS), "w", encoding="utf-8") as file:
            json.dump(facts, file)
        super().on_train_end()  # which writes the last checkpoint: a call that goes on with it finds the facts


class nnUNetTrainer_study(Study, ReliableTraining, nnUNetTrainer):
    """nnU-Net's own trainer with the plans' network, loss, optimiser and schedule."""


class nnUNetTrainer_study150(nnUNetTrainer_study):
    num_epochs = 150


class nnUNetTrainerDistilled_study(Study, nnUNetTrainerDistilled):
    """The same with both terms."""


class nnUNetTrainerDistilled_tenth_study(nnUNetTrainerDistilled_study):
    lambda_projection, lambda_progressive = 0.1, 0.01


class nnUNetTrainerDistilled_hundredth_study(nnUNetTrainerDistilled_study):
    lambda_projection, lambda_progressive = 0.01, 0.001


class nnUNetTrainerVMUNet_study(Study, nnUNetTrainerVMUNet):
    """VM-UNet without distillation."""


class nnUNetTrainerVMUNet_study150(nnUNetTrainerVMUNet_study):
    num_epochs = 150


class nnUNetTrainerDSVM_study(Study, nnUNetTrainerDSVM):
    """VM-UNet with both terms."""


class nnUNetTrainerDSVM_study150(nnUNetTrainerDSVM_study):
    num_epochs = 150


# What was trained before batches were shared, and is not to be taken for what was trained since.


class nnUNetTrainer_ownLoaders_study(nnUNetTrainer_study):
    shares_batches = False


class nnUNetTrainerDistilled_ownLoaders_study(nnUNetTrainerDistilled_study):
    shares_batches = False


class nnUNetTrainerDistilled_tenth_ownLoaders_study(nnUNetTrainerDistilled_tenth_study):
    shares_batches = False


class nnUNetTrainerDistilled_hundredth_ownLoaders_study(nnUNetTrainerDistilled_hundredth_study):
    shares_batches = False


class nnUNetTrainerVMUNet_ownLoaders_study(nnUNetTrainerVMUNet_study):
    shares_batches = False


class nnUNetTrainerDSVM_ownLoaders_study(nnUNetTrainerDSVM_study):
    shares_batches = False


# The number format, in which nnU-Net's own network is trained in fp16.


class nnUNetTrainerVMUNet_fp16_study(nnUNetTrainerVMUNet_study):
    precision = "fp16"


class nnUNetTrainerVMUNet_fp32_study(nnUNetTrainerVMUNet_study):
    precision = "fp32"


# Question 1: fine structure, each without and with distillation.


class nnUNetTrainerVMUNet_stem_study(nnUNetTrainerVMUNet_study):
    stem = "convolutions"


class nnUNetTrainerDSVM_stem_study(nnUNetTrainerDSVM_study):
    stem = "convolutions"


class nnUNetTrainerVMUNet_fullResolution_study(nnUNetTrainerVMUNet_study):
    full_resolution_channels = 24


class nnUNetTrainerDSVM_fullResolution_study(nnUNetTrainerDSVM_study):
    full_resolution_channels = 24


class nnUNetTrainerDSVM_stem_ownLoaders_study(nnUNetTrainerDSVM_stem_study):
    shares_batches = False


class nnUNetTrainerDSVM_fullResolution_ownLoaders_study(nnUNetTrainerDSVM_fullResolution_study):
    shares_batches = False


class nnUNetTrainerVMUNet_both_study(nnUNetTrainerVMUNet_fullResolution_study):
    stem = "convolutions"


class nnUNetTrainerDSVM_both_study(nnUNetTrainerDSVM_fullResolution_study):
    stem = "convolutions"


class nnUNetTrainerVMUNet_fineStages_study(nnUNetTrainerVMUNet_study):
    fine_channels = 32


class nnUNetTrainerDSVM_fineStages_study(nnUNetTrainerDSVM_study):
    fine_channels = 32


class nnUNetTrainerVMUNet_stride2_study(nnUNetTrainerVMUNet_study):
    patch_embedding_stride = 2


class nnUNetTrainerDSVM_stride2_study(nnUNetTrainerDSVM_study):
    patch_embedding_stride = 2


class nnUNetTrainerVMUNet_deepSupervision_study(nnUNetTrainerVMUNet_study):
    default_deep_supervision = True


class nnUNetTrainerDSVM_deepSupervision_study(nnUNetTrainerDSVM_study):
    default_deep_supervision = True


# The recipe: what keeps VM-UNet's training loss above that of nnU-Net's network, each without and with distillation.


class nnUNetTrainerVMUNet_noDropPath_study(nnUNetTrainerVMUNet_study):
    drop_path_rate = 0.0


class nnUNetTrainerDSVM_noDropPath_study(nnUNetTrainerDSVM_study):
    drop_path_rate = 0.0


class nnUNetTrainerVMUNet_lowerRate_study(nnUNetTrainerVMUNet_study):
    default_initial_lr = 3e-4


class nnUNetTrainerDSVM_lowerRate_study(nnUNetTrainerDSVM_study):
    default_initial_lr = 3e-4


class nnUNetTrainerVMUNet_fineStages_noDropPath_study(nnUNetTrainerVMUNet_fineStages_study):
    drop_path_rate = 0.0


class nnUNetTrainerDSVM_fineStages_noDropPath_study(nnUNetTrainerDSVM_fineStages_study):
    drop_path_rate = 0.0


class nnUNetTrainerVMUNet_fineStages_lowerRate_study(nnUNetTrainerVMUNet_fineStages_study):
    default_initial_lr = 3e-4


class nnUNetTrainerDSVM_fineStages_lowerRate_study(nnUNetTrainerDSVM_fineStages_study):
    default_initial_lr = 3e-4


class nnUNetTrainerVMUNet_fineStages_gentle_study(nnUNetTrainerVMUNet_fineStages_noDropPath_study):
    """Both: no stochastic depth, and the lower rate."""

    default_initial_lr = 3e-4


class nnUNetTrainerDSVM_fineStages_gentle_study(nnUNetTrainerDSVM_fineStages_noDropPath_study):
    default_initial_lr = 3e-4


class nnUNetTrainerVMUNet_fineStages_noDropPath_higherRate_study(nnUNetTrainerVMUNet_fineStages_noDropPath_study):
    default_initial_lr = 3e-3


class nnUNetTrainerDSVM_fineStages_noDropPath_higherRate_study(nnUNetTrainerDSVM_fineStages_noDropPath_study):
    default_initial_lr = 3e-3


class nnUNetTrainerVMUNet_fineStages_noDropPath_deepSupervision_study(nnUNetTrainerVMUNet_fineStages_noDropPath_study):
    default_deep_supervision = True


class nnUNetTrainerDSVM_fineStages_noDropPath_deepSupervision_study(nnUNetTrainerDSVM_fineStages_noDropPath_study):
    default_deep_supervision = True


class nnUNetTrainerVMUNet_fineStages_noDropPath_faster_study(
    nnUNetTrainerVMUNet_fineStages_noDropPath_deepSupervision_study
):
    """Both: deep supervision, and the higher rate."""

    default_initial_lr = 3e-3


class nnUNetTrainerDSVM_fineStages_noDropPath_faster_study(
    nnUNetTrainerDSVM_fineStages_noDropPath_deepSupervision_study
):
    default_initial_lr = 3e-3


class nnUNetTrainerVMUNet_fineStages_sgd_study(Study, ReliableTraining, VMUNetNetwork, nnUNetTrainer):
    """With nnU-Net's own optimiser, schedule and number format."""

    fine_channels = 32


class nnUNetTrainerDSVM_fineStages_sgd_study(Study, DistilledTraining, ReliableTraining, VMUNetNetwork, nnUNetTrainer):
    """The same with both terms."""

    fine_channels = 32


# Question 2: the distillation's settings, one changed at a time.


class nnUNetTrainerDSVM_projection_study(nnUNetTrainerDSVM_study):
    distillation_terms = ("projection",)


class nnUNetTrainerDSVM_progressive_study(nnUNetTrainerDSVM_study):
    distillation_terms = ("progressive",)


class nnUNetTrainerDSVM_projectionTenth_study(nnUNetTrainerDSVM_study):
    lambda_projection = 0.1


class nnUNetTrainerDSVM_projection3_study(nnUNetTrainerDSVM_study):
    lambda_projection = 3.0


class nnUNetTrainerDSVM_progressive1_study(nnUNetTrainerDSVM_study):
    lambda_progressive = 1.0


class nnUNetTrainerDSVM_noRamp_study(nnUNetTrainerDSVM_study):
    ramp_fraction = 0.0


class nnUNetTrainerDSVM_kl_study(nnUNetTrainerDSVM_study):
    distillation_distance = "kl"


class nnUNetTrainerDSVM_noStopGradient_study(nnUNetTrainerDSVM_study):
    distillation_stop_gradient = False


class nnUNetTrainerVMUNetV2_study(Study, nnUNetTrainerVMUNetV2):
    """A relative without distillation."""


class nnUNetTrainerDSVM_VMUNetV2_study(Study, nnUNetTrainerDSVM_VMUNetV2):
    """The same with both terms."""


class nnUNetTrainerSwinUMambaD_study(Study, nnUNetTrainerSwinUMambaD):
    """Another one without distillation."""


class nnUNetTrainerDSVM_SwinUMambaD_study(Study, nnUNetTrainerDSVM_SwinUMambaD):
    """The same with both terms."""


# Question 4: y = x in the place of the scan.


class nnUNetTrainerVMUNet_noScan_study(nnUNetTrainerVMUNet_study):
    scan = False


class nnUNetTrainerDSVM_noScan_study(nnUNetTrainerDSVM_study):
    scan = False


class nnUNetTrainerVMUNet_fineStages_noScan_study(nnUNetTrainerVMUNet_fineStages_study):
    scan = False


class nnUNetTrainerVMUNet_fineStages_noDropPath_noScan_study(nnUNetTrainerVMUNet_fineStages_noDropPath_study):
    scan = False
