"""DSVM-UNet for stock nnU-Net v2. Public names are imported on first use: importing the package imports no torch.

Importing it lets nnU-Net find the trainers, as `import torch` does; `register_trainers()` does so again later.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunetv2_dsvm import autoregister, version  # as attributes too: torch may have imported both before

if TYPE_CHECKING:
    from nnunetv2_dsvm.architecture.vm_unet import VMUNet, VMUNetOutput
    from nnunetv2_dsvm.cluster.api import cross_validate
    from nnunetv2_dsvm.dicom.api import predict_dicom
    from nnunetv2_dsvm.distillation.dual import DualSelfDistillation
    from nnunetv2_dsvm.evaluation.api import evaluate, evaluate_cross_validation
    from nnunetv2_dsvm.models.export.api import export
    from nnunetv2_dsvm.models.pretrained.api import convert_weights
    from nnunetv2_dsvm.models.trained_network import load_trained_network
    from nnunetv2_dsvm.ops import ss2d_scan
    from nnunetv2_dsvm.planning.api import plan
    from nnunetv2_dsvm.reporting.api import report

__version__ = version.__version__

_HOME_OF = {
    "DualSelfDistillation": "nnunetv2_dsvm.distillation.dual",
    "VMUNet": "nnunetv2_dsvm.architecture.vm_unet",
    "VMUNetOutput": "nnunetv2_dsvm.architecture.vm_unet",
    "load_trained_network": "nnunetv2_dsvm.models.trained_network",
    "ss2d_scan": "nnunetv2_dsvm.ops",
    "plan": "nnunetv2_dsvm.planning.api",
    "evaluate": "nnunetv2_dsvm.evaluation.api",
    "evaluate_cross_validation": "nnunetv2_dsvm.evaluation.api",
    "report": "nnunetv2_dsvm.reporting.api",
    "export": "nnunetv2_dsvm.models.export.api",
    "convert_weights": "nnunetv2_dsvm.models.pretrained.api",
    "predict_dicom": "nnunetv2_dsvm.dicom.api",
    "cross_validate": "nnunetv2_dsvm.cluster.api",
}

__all__ = [
    "DualSelfDistillation",
    "VMUNet",
    "VMUNetOutput",
    "__version__",
    "convert_weights",
    "cross_validate",
    "evaluate",
    "evaluate_cross_validation",
    "export",
    "load_trained_network",
    "plan",
    "predict_dicom",
    "register_trainers",
    "report",
    "ss2d_scan",
]

register_trainers = autoregister.append_discovery_directory
register_trainers()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
