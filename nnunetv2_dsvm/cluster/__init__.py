"""Cross-validation of many trainers as steps with dependencies: on this machine's GPUs, or on SLURM."""
