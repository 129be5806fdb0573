"""Baselines, tables and pictures for segmentations that nnU-Net has evaluated."""
