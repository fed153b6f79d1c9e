"""Folders that mlx-lm loads."""

from mixq.export.mlx.runtime import Mlx

__all__ = ["Mlx"]
