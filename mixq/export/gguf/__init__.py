"""GGUF, run in llama.cpp: the plan's own integers in ggml's types, or its widths as K types."""

from mixq.export.gguf.runtime import Gguf

__all__ = ["Gguf"]
