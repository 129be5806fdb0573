"""Parts of the distillation, or another distance of its features."""

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM

__all__ = ["nnUNetTrainerDSVM_kl", "nnUNetTrainerDSVM_progressive", "nnUNetTrainerDSVM_projection"]


class nnUNetTrainerDSVM_projection(nnUNetTrainerDSVM):
    """Ablation: only the global term."""

    distillation_terms = ("projection",)


class nnUNetTrainerDSVM_progressive(nnUNetTrainerDSVM):
    """Ablation: only the local term."""

    distillation_terms = ("progressive",)


class nnUNetTrainerDSVM_kl(nnUNetTrainerDSVM):
    """Kullback-Leibler divergence over channels in the place of the mean squared error."""

    distillation_distance = "kl"
