"""Dual self-distillation of an encoder-decoder network's features. Knows lists of feature maps, not networks."""

from nnunetv2_dsvm.distillation.distances import FeatureDistance
from nnunetv2_dsvm.distillation.dual import DualSelfDistillation
from nnunetv2_dsvm.distillation.progressive import ProgressiveSelfDistillation
from nnunetv2_dsvm.distillation.projection import ProjectionSelfDistillation

__all__ = ["DualSelfDistillation", "FeatureDistance", "ProgressiveSelfDistillation", "ProjectionSelfDistillation"]
