"""Differentiable operators that are a kernel or a few on GPUs: depthwise convolutions, sums of residual branches."""
