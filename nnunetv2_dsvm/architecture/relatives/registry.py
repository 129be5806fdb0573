"""The relatives by name: what is built, from what, and how it is trained. A new one is a file and an entry here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2_dsvm.architecture.relatives import of_plans
from nnunetv2_dsvm.architecture.relatives.asp_vmunet import ASPVMUNet
from nnunetv2_dsvm.architecture.relatives.light_m_unet import LightMUNet
from nnunetv2_dsvm.architecture.relatives.msvm_unet import MSVMUNet
from nnunetv2_dsvm.architecture.relatives.recipe import Recipe
from nnunetv2_dsvm.architecture.relatives.swin_umamba import SwinUMamba
from nnunetv2_dsvm.architecture.relatives.swin_umamba_d import SwinUMambaD
from nnunetv2_dsvm.architecture.relatives.u_mamba import UMambaBot, UMambaEnc
from nnunetv2_dsvm.architecture.relatives.vm_unet_v2 import VMUNetV2
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork

ArgumentsOfPlans = Callable[[Mapping[str, Any], Sequence[int]], Mapping[str, Any]]


@dataclass(frozen=True)
class Relative:
    """What is known of a network besides its text.

    Attributes:
        network: its class, called as `network(input_channels, num_classes, deep_supervision=…, auxiliary_heads=…,
            **arguments)`; it states its stages, which are what the distillation takes.
        title: its name in sentences.
        paper: arXiv's number.
        recipe: of training.
        dimensions: of the images it can be built for.
        of_plans: for a network that is built of the U-Net in nnU-Net's plans: its arguments, from the plans'
            `arch_kwargs` and patch size. None: it has one published size.
    """

    network: type[SegmentationNetwork]
    title: str
    paper: str
    recipe: Recipe
    dimensions: tuple[int, ...] = (2,)
    of_plans: ArgumentsOfPlans | None = None


# Swin-UMamba's: AdamW on nnU-Net's length, schedule without a warm-up, deep supervision.
_SWIN_UMAMBA = Recipe(deep_supervision=True, initial_lr=1e-4, weight_decay=0.05, num_epochs=1000, warmup_fraction=0)
_U_MAMBA = Recipe("nnU-Net", deep_supervision=True)
# LightM-UNet's: in fp32, as its fork of nnU-Net trains it.
_LIGHT_M_UNET = Recipe("Adam", "fp32", initial_lr=1e-4, weight_decay=1e-5, num_epochs=100)
RELATIVES: dict[str, Relative] = {
    "VMUNetV2": Relative(VMUNetV2, "VM-UNet V2", "2403.09157", Recipe(warmup_fraction=0)),
    "MSVMUNet": Relative(
        MSVMUNet,
        "MSVM-UNet",
        "2408.13735",
        Recipe(initial_lr=5e-4, weight_decay=1e-3, final_lr_fraction=2e-3, warmup_fraction=0),
    ),
    "SwinUMamba": Relative(SwinUMamba, "Swin-UMamba", "2402.03302", _SWIN_UMAMBA),
    "SwinUMambaD": Relative(SwinUMambaD, "Swin-UMamba†", "2402.03302", _SWIN_UMAMBA),
    "UMambaBot": Relative(UMambaBot, "U-Mamba Bot", "2401.04722", _U_MAMBA, (2, 3), of_plans.u_mamba),
    "UMambaEnc": Relative(UMambaEnc, "U-Mamba Enc", "2401.04722", _U_MAMBA, (2, 3), of_plans.u_mamba),
    "LightMUNet": Relative(LightMUNet, "LightM-UNet", "2403.05246", _LIGHT_M_UNET, (2, 3), of_plans.light_m_unet),
    "ASPVMUNet": Relative(ASPVMUNet, "ASP-VMUNet", "2503.19427", Recipe(warmup_fraction=0)),
}


def class_path(network: type[SegmentationNetwork]) -> str:
    """The name that plans give to a network."""
    return f"{network.__module__}.{network.__qualname__}"
