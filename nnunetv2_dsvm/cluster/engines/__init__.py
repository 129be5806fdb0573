"""Where and how steps run: one in a process, many in a queue over this machine's GPUs, or as jobs of SLURM."""
