"""What makes each relative of VM-UNet tiny, by its name: arguments as plans hold them."""

_FOUR = [1, 1, 1, 1]
TINY = {
    "VMUNetV2": {"dims": [16, 32, 64, 128], "encoder_depths": _FOUR, "mid_channels": 8, "d_state": 2},
    "MSVMUNet": {"dims": [8, 16, 32, 64], "encoder_depths": _FOUR, "decoder_depths": [1, 1, 1]},
    "SwinUMamba": {"dims": [8, 16, 32, 64], "encoder_depths": _FOUR, "d_state": 2},
    "SwinUMambaD": {"dims": [8, 16, 32, 64], "encoder_depths": _FOUR, "decoder_depths": [1, 1, 1], "d_state": 2},
}
