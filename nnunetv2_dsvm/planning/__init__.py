"""nnU-Net's plans: planned for VM-UNet by the memory of the GPU, changed in size, and their folds by groups."""
