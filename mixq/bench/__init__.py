"""Bench: fp32, uniform and mixed plans side by side in their real runtime."""
