"""Kernels fitted to published measurements; the scripts beside this folder run it."""
