"""What makes each relative of VM-UNet tiny, by its name: arguments as plans hold them."""

_FOUR = [1, 1, 1, 1]
_THREE_STRIDES = [[1, 1], [2, 2], [2, 2]]
_U_MAMBA = {
    "features_per_stage": [4, 8, 8],
    "kernel_sizes": [[3, 3]] * 3,
    "strides": _THREE_STRIDES,
    "n_conv_per_stage": [2, 1, 1],
    "n_conv_per_stage_decoder": [2, 1],
}
TINY = {
    "VMUNetV2": {"dims": [16, 32, 64, 128], "encoder_depths": _FOUR, "mid_channels": 8, "d_state": 2},
    "MSVMUNet": {"dims": [8, 16, 32, 64], "encoder_depths": _FOUR, "decoder_depths": [1, 1, 1]},
    "SwinUMamba": {"dims": [8, 16, 32, 64], "encoder_depths": _FOUR, "d_state": 2},
    "SwinUMambaD": {"dims": [8, 16, 32, 64], "encoder_depths": _FOUR, "decoder_depths": [1, 1, 1], "d_state": 2},
    "UMambaBot": _U_MAMBA,
    "UMambaEnc": {**_U_MAMBA, "patch_size": [64, 64]},  # with more positions than channels everywhere: any size
    "LightMUNet": {"strides": _THREE_STRIDES, "channels": 8, "encoder_blocks": [1, 1, 1], "decoder_blocks": [1, 1]},
    "ASPVMUNet": {
        "channels": [8, 8, 8, 8, 8, 16],
        "encoder_steps": [[2], [2], [2], [2, 2, 2], [2]],
        "decoder_steps": [[2], [2], [2], [2], [2]],
    },
}
# ASP-VMUNet with one of its layers.
ONE_LAYER = {"channels": [8] * 6, "encoder_steps": [[2], [], [], [], []], "decoder_steps": [[]] * 5}
