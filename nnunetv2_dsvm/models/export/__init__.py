"""A trained network as one file that runs without this package: torch.export programs and ONNX models."""
