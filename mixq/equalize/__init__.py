"""Equalization: the same function with weights that quantize better, where the graph allows it."""
