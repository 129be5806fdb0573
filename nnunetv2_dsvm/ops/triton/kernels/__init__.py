"""Triton's kernels: text that Triton compiles, or interprets on a CPU; imported by the launches when first used."""
