"""Kernels, roofline and memory: what a unit in a format costs on a named chip and runtime."""
