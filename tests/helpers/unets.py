"""nnU-Net's own networks, tiny, in 2D and 3D, as further configurations of the tiny dataset."""

from typing import Any

UNET_2D, UNET_3D, RESENC_3D, CASCADE_3D = "2d_unet", "3d_unet", "3d_resenc", "3d_cascade"


def unet_architecture(axes: int, kind: str = "PlainConvUNet") -> dict[str, Any]:
    """The plans' entry of a network with four stages; in 3D its first stride leaves the slices alone, as for CT."""
    counts = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    halved = [[2] * axes] * 2
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": 4,
            "features_per_stage": [4, 6, 8, 8],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * 4,
            "strides": [[1] * axes, [*[1] * (axes - 2), 2, 2], *halved],
            counts: [1, 1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    UNET_2D: {"inherits_from": "2d", "architecture": unet_architecture(2)},
    UNET_3D: {
        "inherits_from": "3d_fullres",
        "data_identifier": "tinyPlans_3d",
        "patch_size": [8, 16, 16],
        "architecture": unet_architecture(3),
    },
    RESENC_3D: {"inherits_from": UNET_3D, "architecture": unet_architecture(3, "ResidualEncoderUNet")},
    CASCADE_3D: {"inherits_from": UNET_3D, "previous_stage": UNET_3D},
}  # for `plan_and_preprocess_here(dataset, CONFIGURATIONS)`
