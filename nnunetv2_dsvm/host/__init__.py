"""The machine: versions, devices, processes, threads."""
