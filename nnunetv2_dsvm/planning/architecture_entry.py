"""What nnU-Net's plans say of a network of ours; written without loading torch, which takes seconds."""

from collections.abc import Mapping
from typing import Any

NETWORK_CLASS_NAME = "nnunetv2_dsvm.architecture.vm_unet.VMUNet"  # in plans that users have: it stays


def architecture_entry(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `architecture` of a configuration with a VM-UNet.

    Args:
        sizes: arguments of `VMUNet` besides channels and classes.
    """
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in sizes.items()}
    return {"network_class_name": NETWORK_CLASS_NAME, "arch_kwargs": arguments, "_kw_requires_import": []}
