"""The network, in torch.nn only: knows neither nnU-Net nor distillation."""
