"""The yardstick network: PlainConvUNet of dynamic-network-architectures, sized as nnU-Net plans a 2D configuration."""

from typing import Any

from torch import nn

_FEATURES = (32, 64, 128, 256, 512, 512, 512, 512)
_SMALLEST_EDGE = 4  # nnU-Net pools until the feature map's edge would fall below this


def plain_conv_unet(input_channels: int, num_classes: int, height: int, width: int) -> nn.Module:
    """For images of `height` x `width`: 7 stages and 33 M parameters at 256², 8 stages and 46 M at 512².

    Raises:
        ImportError: dynamic-network-architectures is not installed.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        input_channels,
        **planned_arguments(height, width),
        conv_op=nn.Conv2d,
        num_classes=num_classes,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def planned_arguments(height: int, width: int) -> dict[str, Any]:
    """What nnU-Net's plans say of it, in their form: stages, channels, kernels, strides, convolutions."""
    stages = 1
    while stages < len(_FEATURES) and min(height, width) / 2**stages >= _SMALLEST_EDGE:
        stages += 1
    return {
        "n_stages": stages,
        "features_per_stage": _FEATURES[:stages],
        "kernel_sizes": [[3, 3]] * stages,
        "strides": [[1, 1], *([2, 2] for _ in range(stages - 1))],
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
