"""Speed and memory of the scan, the SS2D core, the network and the distillation. Needs torch, not nnU-Net."""
