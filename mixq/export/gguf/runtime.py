"""Gguf: the runtime `gguf` of `mixq export`, one file for llama.cpp."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, final

from mixq.export.gguf.architecture import Described, described, sliding_window
from mixq.export.gguf.contents import entries, gathered
from mixq.export.gguf.file import tensor_bytes, write_file
from mixq.export.gguf.session import LlamaCpp, binding
from mixq.export.gguf.storage import BF16, F16, F32
from mixq.export.gguf.tokenizer import split_name, tokenizer_json
from mixq.export.runtime import FLOAT_TOLERANCE, Written
from mixq.export.source import Source

HALF_TOLERANCE = 1e-2
"""Where weights are 16-bit floats, llama.cpp rounds activations to them: measured on SmolLM2's 30
layers, 0.0009 for float16 and 0.0061 for bfloat16."""
ROUNDED_TOLERANCE = 5e-2
"""Where weights are integers, it rounds activations to 8 bits, in blocks of 32: measured on
SmolLM2 0.026 to 0.030, of which nothing is left when torch rounds them too (a test)."""


@final
class Gguf:
    """A mixed-type GGUF file of the plan's own integers, run in llama.cpp."""

    name: ClassVar[str] = "gguf"
    extra: ClassVar[str] = "gguf"
    is_folder: ClassVar[bool] = False
    suffix: ClassVar[str] = ".gguf"

    def check(self, source: Source) -> None:
        """Refuse early what GGUF or llama.cpp cannot take.

        Raises:
            ExportError: an architecture, a format, a tokenizer, with the legal choices.
            MissingExtraError: if gguf or llama.cpp is not installed.
        """
        binding()
        entries(source, described(source.model))
        split_name(tokenizer_json(source.folder), f"{source.folder}/tokenizer.json")

    def write(self, source: Source, path: Path) -> Written:
        """Write the file.

        Raises:
            ExportError: as `check`.
        """
        model = described(source.model)
        found = entries(source, model)
        write_file(path, model, found, source.folder)
        return Written(
            tensor_bytes=tensor_bytes(path),
            predicted_bytes=sum(entry.stored_bytes for entry in found),
            tolerance=_tolerance(entry.type.name for entry in found),
            notes=(*_notes(model), *gathered(found)),
        )

    def open(self, path: Path, *, threads: int = 1) -> LlamaCpp:
        """Load the file in llama.cpp.

        Raises:
            ExportError: if it does not load.
            MissingExtraError: if llama.cpp is not installed.
        """
        return LlamaCpp(path, threads=threads)


def _tolerance(types: Iterable[str]) -> float:
    """How far the outputs may be from those of the applied plan, whose activations are floats."""
    found = set(types)
    if found <= {F32.name}:
        return FLOAT_TOLERANCE
    return HALF_TOLERANCE if found <= {F32.name, F16.name, BF16.name} else ROUNDED_TOLERANCE


def _notes(model: Described) -> tuple[str, ...]:
    window = sliding_window(model.config)
    if window is None or model.architecture.name == "phi3":
        return ()
    return (
        f"the model's attention looks back {window} tokens, llama.cpp's all of them: texts "
        "longer than that give other outputs",
    )
