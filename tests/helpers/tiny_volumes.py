"""A tiny VM-UNet of volumes, and a cascade of two of them, as further configurations of the tiny dataset."""

from typing import Any

from helpers.tiny_dataset import NETWORK, SHAPE

VOLUME, LOW, CASCADE = "3d_vm_unet", "3d_vm_unet_lowres", "3d_vm_unet_cascade"
# Slices are thick: the patch embedding leaves them alone, as nnU-Net's plans do. The patch is no multiple of strides.
NETWORK_3D = {
    **NETWORK,
    "dims": [16, 32],  # of 8, the last norm would have two channels, and its output two values
    "encoder_depths": [1, 1],
    "decoder_depths": [1, 1],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}
PATCH = (5, 18, 16)
VOLUMES: dict[str, dict[str, Any]] = {
    VOLUME: {
        "inherits_from": "3d_fullres",
        "data_identifier": "tinyPlans_3d",
        "patch_size": list(PATCH),
        "batch_size": 2,
        "architecture": {
            "network_class_name": "nnunetv2_dsvm.architecture.vm_unet.VMUNet",
            "arch_kwargs": NETWORK_3D,
            "_kw_requires_import": [],
        },
    },
    LOW: {
        "inherits_from": VOLUME,
        "data_identifier": "tinyPlans_3d_lowres",
        "spacing": [4.0, 2.0, 2.0],
        "patch_size": [6, 20, 24],
        "next_stage": CASCADE,
    },
    CASCADE: {"inherits_from": VOLUME, "previous_stage": LOW, "patch_size": list(SHAPE)},
}  # for `plan_and_preprocess_here(dataset, VOLUMES)`
