"""Checkpoint files: written so that nothing is lost, read only where they fit."""
