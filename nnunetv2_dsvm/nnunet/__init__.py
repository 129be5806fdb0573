"""nnU-Net's folders, listings, trained models and commands: the one room that knows where nnU-Net keeps what."""
