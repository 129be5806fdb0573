"""The official names of each relative, by its name in `architecture.relatives.registry`."""

from nnunetv2_dsvm.architecture.official_names.msvm_unet import MSVM_UNET
from nnunetv2_dsvm.architecture.official_names.name_map import NameMap
from nnunetv2_dsvm.architecture.official_names.swin_umamba import SWIN_UMAMBA, SWIN_UMAMBA_D
from nnunetv2_dsvm.architecture.official_names.vm_unet_v2 import VM_UNET_V2

OFFICIAL_NAMES: dict[str, NameMap] = {
    "VMUNetV2": VM_UNET_V2,
    "MSVMUNet": MSVM_UNET,
    "SwinUMamba": SWIN_UMAMBA,
    "SwinUMambaD": SWIN_UMAMBA_D,
}
