"""Changes to nnU-Net's plans."""
