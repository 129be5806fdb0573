"""The variants of the three trainers, each a class with one override. nnU-Net finds them by their names (`-tr`).

A module an idea; what each exports is its `__all__`.
"""

from nnunetv2_dsvm.training.distilled_trainer import nnUNetTrainerDistilled
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.variants import (
    ablations,
    deep_supervision,
    fine,
    frozen_encoder,
    lengths,
    no_scan,
    orientation,
    relatives,
)
from nnunetv2_dsvm.training.variants.ablations import *  # noqa: F403
from nnunetv2_dsvm.training.variants.deep_supervision import *  # noqa: F403
from nnunetv2_dsvm.training.variants.fine import *  # noqa: F403
from nnunetv2_dsvm.training.variants.frozen_encoder import *  # noqa: F403
from nnunetv2_dsvm.training.variants.lengths import *  # noqa: F403
from nnunetv2_dsvm.training.variants.no_scan import *  # noqa: F403
from nnunetv2_dsvm.training.variants.orientation import *  # noqa: F403
from nnunetv2_dsvm.training.variants.relatives import *  # noqa: F403
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

__all__ = ["nnUNetTrainerDSVM", "nnUNetTrainerDistilled", "nnUNetTrainerVMUNet"]
__all__ += ablations.__all__
__all__ += deep_supervision.__all__
__all__ += fine.__all__
__all__ += frozen_encoder.__all__
__all__ += lengths.__all__
__all__ += no_scan.__all__
__all__ += orientation.__all__
__all__ += relatives.__all__
