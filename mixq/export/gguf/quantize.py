"""A model rounded by llama.cpp itself: to types that a plan chose, or by one of its own recipes.

llama.cpp's `llama_model_quantize` does the rounding, in this process. Its list of overrides
cannot be set through cyllama 0.2.18, so every type is one call, on a file with the tensors of
that type alone and with `pure`, which means no choices of its own; the tensors are then gathered.
llama.cpp rounds each tensor by itself, so the bytes are those of one call with overrides, which a
test compares.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from torch import nn

from mixq.errors import ExportError
from mixq.export.gguf.architecture import Described, described
from mixq.export.gguf.contents import Entry, float_entries, gathered
from mixq.export.gguf.file import tensor_bytes, write_file
from mixq.export.gguf.overrides import K_TYPES, Override, overrides
from mixq.export.gguf.session import binding
from mixq.export.gguf.storage import TYPES
from mixq.export.source import ByteArray, Source
from mixq.files import one_line

RECIPES: Final = (
    "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "Q2_K_S",
)  # fmt: skip
"""What `write_recipe` takes, as `llama-quantize` spells it."""
_PURE: Final = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "Q2_K": "Q2_K"}


@dataclass(frozen=True)
class Rounded:
    """What llama.cpp made of a plan's widths; its integers, and so its outputs, are its own.

    Attributes:
        tensor_bytes: of all tensors of the file.
        predicted_bytes: what they should take, by formula.
        notes: types that do not fit and what took their place, a sentence each.
    """

    tensor_bytes: int
    predicted_bytes: int
    notes: tuple[str, ...]


def write_float(model: nn.Module, tokenizer: Path | None, path: Path) -> None:
    """Write a model with nothing rounded: what `llama-quantize` starts from.

    Args:
        model: of transformers.
        tokenizer: Hugging Face folder of its tokenizer.
        path: where to.

    Raises:
        ExportError: for a model or tokenizer that llama.cpp does not know.
        MissingExtraError: if gguf is not installed.
    """
    known = described(model)
    write_file(path, known, float_entries(model, known), tokenizer)


def write_recipe(
    model: nn.Module, tokenizer: Path | None, path: Path, recipe: str, *, threads: int = 1
) -> None:
    """Write a model rounded by a recipe of llama.cpp such as Q4_K_M.

    Args:
        model: of transformers.
        tokenizer: Hugging Face folder of its tokenizer.
        path: where to.
        recipe: one of `RECIPES`.
        threads: of the rounding.

    Raises:
        ExportError: for a recipe, model or tokenizer that llama.cpp does not know.
        MissingExtraError: if gguf or llama.cpp is not installed.
    """
    if recipe not in RECIPES:
        raise ExportError(
            f"recipe {one_line(recipe, 40)} is unknown; choose from {', '.join(RECIPES)}"
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        floats = Path(folder) / "float.gguf"
        write_float(model, tokenizer, floats)
        _quantize(floats, path, recipe, pure=False, threads=threads)


def write_overridden(
    source: Source, path: Path, types: Mapping[int, str] = K_TYPES, *, threads: int = 1
) -> Rounded:
    """Write the original model with each unit rounded by llama.cpp to the type of its width.

    Args:
        source: the plan and its model.
        path: where to.
        types: type of each width, by ggml's names.
        threads: of the rounding.

    Raises:
        ExportError: as `overrides`.
        MissingExtraError: if gguf or llama.cpp is not installed.
    """
    model = described(source.model)
    chosen = {item.tensor: item for item in overrides(source, types)}
    entries = [
        _overridden(entry, chosen[entry.name]) if entry.name in chosen else entry
        for entry in float_entries(source.model, model)
    ]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = _rounded(source, model, entries, Path(folder), threads)
        ready = [replace(e, make=made[e.name]) if e.name in made else e for e in entries]
        write_file(path, model, ready, source.folder)
    return Rounded(
        tensor_bytes=tensor_bytes(path),
        predicted_bytes=sum(entry.stored_bytes for entry in entries),
        notes=gathered(entries),
    )


def _rounded(
    source: Source, model: Described, entries: Sequence[Entry], folder: Path, threads: int
) -> dict[str, Callable[[], ByteArray]]:
    """By name of a tensor, what gives its bytes in its type."""
    import gguf

    floats = {entry.name: entry for entry in float_entries(source.model, model)}
    made: dict[str, Callable[[], ByteArray]] = {}
    for kind in dict.fromkeys(entry.type.name for entry in entries):
        names = [e.name for e in entries if e.type.name == kind and floats[e.name].type != e.type]
        if not names:
            continue
        start, end = folder / f"{kind}.float.gguf", folder / f"{kind}.gguf"
        write_file(start, model, [floats[name] for name in names], source.folder)
        _quantize(start, end, _PURE.get(kind, kind), pure=True, threads=threads)
        start.unlink()
        for tensor in gguf.GGUFReader(end).tensors:
            assert tensor.tensor_type.name == kind
            # Mapped from the file, so nothing is read before it is written.
            made[tensor.name] = _view(tensor.data)
    return made


def _overridden(entry: Entry, item: Override) -> Entry:
    return replace(entry, type=TYPES[item.type], note=item.note, unit=item.unit)


def _view(data: ByteArray) -> Callable[[], ByteArray]:
    return lambda: data.view("u1")


def _quantize(start: Path, end: Path, recipe: str, *, pure: bool, threads: int) -> None:
    import gguf

    library = binding()
    params = library.LlamaModelQuantizeParams()
    params.ftype = int(gguf.LlamaFileType[f"MOSTLY_{recipe}"])
    params.pure = pure
    params.nthread = threads
    try:
        library.model_quantize(str(start), str(end), params)
    except (RuntimeError, ValueError, OSError) as error:
        raise ExportError(f"llama.cpp does not quantize to {recipe}: {one_line(error)}") from error
