"""Plans that fit VM-UNet: sizes and batch by the memory of the GPU."""
