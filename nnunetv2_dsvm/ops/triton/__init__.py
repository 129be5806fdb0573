"""The scan and the operators around it on GPUs: launches of Triton's kernels, and of faster ones where they run."""
