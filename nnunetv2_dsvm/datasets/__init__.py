"""Converters to nnU-Net's raw format."""
