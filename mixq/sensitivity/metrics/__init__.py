"""Metrics of output error: how far a changed model's outputs are from the original's."""
