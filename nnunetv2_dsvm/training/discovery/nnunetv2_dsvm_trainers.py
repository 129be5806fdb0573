"""What nnU-Net finds when it looks for a trainer in this directory: every trainer of nnunetv2_dsvm."""

from nnunetv2_dsvm.quickstart.trainers import *  # noqa: F403
from nnunetv2_dsvm.training.variants import *  # noqa: F403
