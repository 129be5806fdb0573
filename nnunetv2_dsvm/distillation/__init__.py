"""Dual self-distillation of an encoder-decoder network's features, which it returns itself or taps take from it."""

from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput, StageInfo
from nnunetv2_dsvm.distillation.distances import FeatureDistance
from nnunetv2_dsvm.distillation.dual import DualSelfDistillation
from nnunetv2_dsvm.distillation.progressive import ProgressiveSelfDistillation
from nnunetv2_dsvm.distillation.projection import ProjectionSelfDistillation
from nnunetv2_dsvm.distillation.stages import describe_stages, unet_stages
from nnunetv2_dsvm.distillation.taps import FeatureTaps

__all__ = [
    "DualSelfDistillation",
    "FeatureDistance",
    "FeatureTaps",
    "FeaturesOutput",
    "ProgressiveSelfDistillation",
    "ProjectionSelfDistillation",
    "StageInfo",
    "describe_stages",
    "unet_stages",
]
