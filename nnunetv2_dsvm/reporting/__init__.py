"""The report on trained models: training curves, metrics and pictures of cases in one HTML file."""
