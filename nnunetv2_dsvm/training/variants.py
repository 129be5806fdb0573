"""The variants of the two trainers, one override each. nnU-Net finds every class here by its name (`-tr`)."""

from torch import nn

from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.network import build_vm_unet
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet


class nnUNetTrainerDSVM_projection(nnUNetTrainerDSVM):
    """Ablation: only the global term."""

    distillation_terms = ("projection",)


class nnUNetTrainerDSVM_progressive(nnUNetTrainerDSVM):
    """Ablation: only the local term."""

    distillation_terms = ("progressive",)


class nnUNetTrainerDSVM_kl(nnUNetTrainerDSVM):
    """Kullback-Leibler divergence over channels in the place of the mean squared error."""

    distillation_distance = "kl"


class _DeepSupervision:
    """Ours: heads on the decoder's stages too, trained as nnU-Net trains its own, and unused at inference."""

    default_deep_supervision = True

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ) -> nn.Module:
        """As in the base trainer, with the auxiliary heads always built: inference must load their weights too."""
        return build_vm_unet(
            configuration_manager,
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
            auxiliary_heads=True,
        )


class nnUNetTrainerDSVM_deepSupervision(_DeepSupervision, nnUNetTrainerDSVM):
    """DSVM-UNet with nnU-Net's deep supervision."""


class nnUNetTrainerVMUNet_deepSupervision(_DeepSupervision, nnUNetTrainerVMUNet):
    """VM-UNet with nnU-Net's deep supervision."""


class nnUNetTrainerDSVM_1epochs(nnUNetTrainerDSVM):
    default_num_epochs = 1


class nnUNetTrainerDSVM_5epochs(nnUNetTrainerDSVM):
    default_num_epochs = 5


class nnUNetTrainerDSVM_10epochs(nnUNetTrainerDSVM):
    default_num_epochs = 10


class nnUNetTrainerDSVM_20epochs(nnUNetTrainerDSVM):
    default_num_epochs = 20


class nnUNetTrainerDSVM_50epochs(nnUNetTrainerDSVM):
    default_num_epochs = 50


class nnUNetTrainerDSVM_100epochs(nnUNetTrainerDSVM):
    default_num_epochs = 100


class nnUNetTrainerDSVM_250epochs(nnUNetTrainerDSVM):
    default_num_epochs = 250


class nnUNetTrainerDSVM_500epochs(nnUNetTrainerDSVM):
    default_num_epochs = 500


class nnUNetTrainerDSVM_1000epochs(nnUNetTrainerDSVM):
    default_num_epochs = 1000


class nnUNetTrainerVMUNet_1epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 1


class nnUNetTrainerVMUNet_5epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 5


class nnUNetTrainerVMUNet_10epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 10


class nnUNetTrainerVMUNet_20epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 20


class nnUNetTrainerVMUNet_50epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 50


class nnUNetTrainerVMUNet_100epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 100


class nnUNetTrainerVMUNet_250epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 250


class nnUNetTrainerVMUNet_500epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 500


class nnUNetTrainerVMUNet_1000epochs(nnUNetTrainerVMUNet):
    default_num_epochs = 1000


class NoMirroring:
    """Neither training nor inference flips images: for data where left and right differ and are always where they are.

    Rotations shrink to ±15° when the patch is more than 1.5 times as long as wide; that is nnU-Net's own rule.
    """

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        *others, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return *others, None


class nnUNetTrainerDSVM_NoMirroring(NoMirroring, nnUNetTrainerDSVM):
    """DSVM-UNet without mirroring."""


class nnUNetTrainerVMUNet_NoMirroring(NoMirroring, nnUNetTrainerVMUNet):
    """VM-UNet without mirroring."""


# nnUNetTrainerDSVM_5epochs_NoMirroring and so on, as nnU-Net names its own: every length above, without mirroring.
for _with_mirroring in [_class for _name, _class in globals().items() if _name.endswith("epochs")]:
    _name = f"{_with_mirroring.__name__}_NoMirroring"
    globals()[_name] = type(_name, (NoMirroring, _with_mirroring), {"__module__": __name__})
