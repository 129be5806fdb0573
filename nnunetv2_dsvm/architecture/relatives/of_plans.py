"""The arguments of the relatives that are built like the U-Net in nnU-Net's plans."""

from collections.abc import Mapping, Sequence
from typing import Any

_LIGHT_M_UNET = (1, 2, 2, 4), (1, 1, 1)  # blocks of the encoder's and of the decoder's stages


def u_mamba(planned: Mapping[str, Any], patch_size: Sequence[int]) -> dict[str, Any]:
    """Of U-Mamba: stages, channels, kernels and blocks as planned; two blocks a stage where residual ones are planned.

    Args:
        planned: the `arch_kwargs` of a configuration.
        patch_size: that it trains on.

    Raises:
        ValueError: the plans describe another kind of network.
    """
    if not _is_u_net(planned):
        raise ValueError(
            "it is built like nnU-Net's U-Net, and these plans describe another network. Train it with plans of "
            "nnU-Net's own planners (-p nnUNetPlans)"
        )
    stages = len(planned["strides"])
    return {
        "features_per_stage": planned["features_per_stage"],
        "kernel_sizes": planned["kernel_sizes"],
        "strides": planned["strides"],
        "n_conv_per_stage": planned.get("n_conv_per_stage", [2] * stages),
        "n_conv_per_stage_decoder": planned["n_conv_per_stage_decoder"]
        if "n_conv_per_stage" in planned
        else [2] * (stages - 1),
        "patch_size": patch_size,
    }


def light_m_unet(planned: Mapping[str, Any], patch_size: Sequence[int]) -> dict[str, Any]:
    """Of LightM-UNet: the strides of the first four planned stages; without a planned U-Net 2 along every axis.

    The official code halves every axis three times, whatever is planned.
    """
    encoder, decoder = _LIGHT_M_UNET
    halved = [[1] * len(patch_size), *([2] * len(patch_size) for _ in decoder)]
    strides = planned["strides"][: len(encoder)] if _is_u_net(planned) else halved
    stages = len(strides)
    return {"strides": strides, "encoder_blocks": encoder[:stages], "decoder_blocks": decoder[: stages - 1]}


def _is_u_net(planned: Mapping[str, Any]) -> bool:
    return {"features_per_stage", "kernel_sizes", "strides"} <= planned.keys()
