"""Trained and pretrained networks: loaded, converted, exported."""
