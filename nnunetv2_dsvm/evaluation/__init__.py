"""Metrics of segmentations by three protocols, comparisons of models, baselines, tables and pictures."""
