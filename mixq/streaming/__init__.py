"""Models too large for memory: one block's weights in place at a time."""

from __future__ import annotations

from mixq.streaming.model import StreamedModel
from mixq.streaming.open import open_folder

__all__ = ["StreamedModel", "open_folder"]
