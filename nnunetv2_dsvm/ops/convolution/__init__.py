"""Convolutions of each channel by itself, and what is fused with them, as differentiable operators."""
