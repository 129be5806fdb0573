"""Pretrained weights of VMamba, VM-UNet or this package, made into a file that nnU-Net's -pretrained_weights takes."""
