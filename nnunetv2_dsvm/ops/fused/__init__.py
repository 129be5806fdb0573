"""Differentiable operators of a kernel or a few on GPUs: depthwise convolutions, sums, means and errors of maps."""
