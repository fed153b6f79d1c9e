"""The file itself: metadata, then tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixq.export.gguf.architecture import Described
from mixq.export.gguf.contents import Entry
from mixq.export.gguf.metadata import add_hyper_parameters
from mixq.export.gguf.tokenizer import add_tokenizer


def write_file(path: Path, model: Described, found: Sequence[Entry], folder: Path | None) -> None:
    """Write a GGUF file, one tensor in memory at a time.

    Raises:
        ExportError: if the folder has no tokenizer that llama.cpp has.
    """
    import gguf

    writer: Any = gguf.GGUFWriter(None, model.architecture.name)
    add_hyper_parameters(writer, model)
    add_tokenizer(writer, folder, model.config.vocab_size)
    for entry in found:
        row = entry.type.stored_bytes(1, entry.shape[-1])
        writer.add_tensor_info(
            entry.name,
            (*entry.shape[:-1], row),  # of bytes, because that is what is written
            np.dtype(np.uint8),
            entry.stored_bytes,
            gguf.GGMLQuantizationType[entry.type.name],
        )
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in found:
            writer.write_tensor_data(entry.make())
    finally:
        writer.close()


def tensor_bytes(path: Path) -> int:
    """Bytes of all tensors of a GGUF file, as it says itself."""
    import gguf

    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors)
