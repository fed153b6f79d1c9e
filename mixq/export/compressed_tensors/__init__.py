"""Folders that transformers loads with compressed-tensors."""

from mixq.export.compressed_tensors.runtime import CompressedTensors

__all__ = ["CompressedTensors"]
