"""The official names of each relative, by its name in `architecture.relatives.registry`."""

from nnunetv2_dsvm.architecture.official_names.asp_vmunet import ASP_VMUNET
from nnunetv2_dsvm.architecture.official_names.light_m_unet import LIGHT_M_UNET
from nnunetv2_dsvm.architecture.official_names.msvm_unet import MSVM_UNET
from nnunetv2_dsvm.architecture.official_names.name_map import NameMap
from nnunetv2_dsvm.architecture.official_names.swin_umamba import SWIN_UMAMBA, SWIN_UMAMBA_D
from nnunetv2_dsvm.architecture.official_names.u_mamba import U_MAMBA
from nnunetv2_dsvm.architecture.official_names.vm_unet_v2 import VM_UNET_V2

OFFICIAL_NAMES: dict[str, NameMap] = {
    "VMUNetV2": VM_UNET_V2,
    "MSVMUNet": MSVM_UNET,
    "SwinUMamba": SWIN_UMAMBA,
    "SwinUMambaD": SWIN_UMAMBA_D,
    "UMambaBot": U_MAMBA,
    "UMambaEnc": U_MAMBA,
    "LightMUNet": LIGHT_M_UNET,
    "ASPVMUNet": ASP_VMUNET,
}
