"""What a training refuses, watches and survives."""
