"""Operators on maps `(B, C, H, W)` with channels last in memory: means over windows, errors of enlarged maps."""
