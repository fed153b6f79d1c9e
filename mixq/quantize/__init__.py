"""Quantization as pure functions on tensors: scales, rounding, packing."""
