"""The yardstick network: PlainConvUNet of dynamic-network-architectures, sized as nnU-Net plans a configuration."""

from collections.abc import Sequence
from typing import Any

from torch import nn

_FEATURES = (32, 64, 128, 256, 512, 512, 512, 512)
_FEATURES_3D = (32, 64, 128, 256, 320, 320)
_SMALLEST_EDGE = 4  # nnU-Net pools until the feature map's edge would fall below this


def plain_conv_unet(
    input_channels: int, num_classes: int, size: Sequence[int], plan: Sequence[Sequence[int]] = ()
) -> nn.Module:
    """For images of `(height, width)`: 7 stages and 33 M parameters at 256², 8 stages and 46 M at 512².

    For volumes of `(depth, height, width)` with the strides that nnU-Net plans: 31 M parameters at 128³.

    Raises:
        ImportError: dynamic-network-architectures is not installed.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    volumes = len(size) == 3
    return PlainConvUNet(
        input_channels,
        **planned_arguments(size, plan),
        conv_op=nn.Conv3d if volumes else nn.Conv2d,
        num_classes=num_classes,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d if volumes else nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def planned_arguments(size: Sequence[int], plan: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
    """What nnU-Net's plans say of it, in their form: stages, channels, kernels, strides, convolutions."""
    stages = len(plan) or 1
    while not plan and stages < len(_FEATURES) and min(size) / 2**stages >= _SMALLEST_EDGE:
        stages += 1
    axes = len(size)
    return {
        "n_stages": stages,
        "features_per_stage": (_FEATURES if axes == 2 else _FEATURES_3D)[:stages],
        "kernel_sizes": [[3] * axes] * stages,
        "strides": [list(step) for step in plan] or [[1] * axes, *([2] * axes for _ in range(stages - 1))],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }


def available() -> tuple[bool, str]:
    """Whether dynamic-network-architectures can be imported, and why not."""
    try:
        import dynamic_network_architectures.architectures.unet  # noqa: F401
    except Exception as error:
        return False, f"dynamic-network-architectures cannot be imported ({type(error).__name__}: {error})"
    return True, ""
