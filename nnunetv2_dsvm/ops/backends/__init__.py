"""What runs the scan: one module a backend, each with the same contract (`ops/backend.py`)."""
