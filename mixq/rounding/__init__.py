"""Rounding of a model's units: which integers each format gives, made once and kept."""
