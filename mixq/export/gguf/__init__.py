"""GGUF, run in llama.cpp: the plan's own integers in ggml's block types, or a plan for K-quants."""

from mixq.export.gguf.runtime import Gguf

__all__ = ["Gguf"]
