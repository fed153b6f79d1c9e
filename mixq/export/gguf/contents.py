"""Entry: a tensor of a GGUF file, known before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mixq.errors import ExportError, MissingExtraError
from mixq.export.gguf.architecture import Described
from mixq.export.gguf.blocks import blocks
from mixq.export.gguf.storage import BF16, F16, F32, TensorType, storage
from mixq.export.source import ByteArray, Source, Unit
from mixq.files import one_line
from mixq.graph.state import stored_tensors

NAMED: Final = 3
"""Units that a note names; the plan has the others, by their format."""
_FLOATS = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor.

    Attributes:
        name: in GGUF, `blk.0.attn_q.weight`.
        shape: (rows, columns) or (columns,).
        type: of its numbers.
        make: gives its bytes, shape (rows, bytes of a row) or (bytes,).
        note: what was mapped up, or empty.
        unit: the weight unit that it holds, for the notes.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    make: Callable[[], ByteArray]
    note: str = ""
    unit: str = ""

    @property
    def stored_bytes(self) -> int:
        """Bytes that it takes, by formula."""
        return self.type.stored_bytes(int(np.prod(self.shape[:-1])), self.shape[-1])


def entries(source: Source, model: Described) -> list[Entry]:
    """Every tensor of the file, in the order of the model.

    Raises:
        ExportError: for a format without a type, or a tensor without a place in llama.cpp.
        MissingExtraError: if gguf is not installed.
    """
    names = gguf_names(model)
    plain = {(name, *_aliases(source, name)): tensor for name, tensor in source.plain.items()}
    return [*_packed(source, model, names), *_plain(plain, model, names), *_rope(model)]


def float_entries(original: nn.Module, model: Described) -> list[Entry]:
    """Every tensor of a file of the model itself, with nothing rounded.

    Raises:
        ExportError: for a tensor without a place in llama.cpp.
        MissingExtraError: if gguf is not installed.
    """
    tensors = {item.names: item.tensor for item in stored_tensors(original)}
    return [*_plain(tensors, model, gguf_names(model)), *_rope(model)]


def gathered(found: Iterable[Entry]) -> tuple[str, ...]:
    """The notes of all tensors, each once, with the units that it is about."""
    units: dict[str, list[str]] = {}
    for entry in found:
        if entry.note:
            units.setdefault(entry.note, []).append(entry.unit)
    return tuple(
        f"{note}: {', '.join(names[:NAMED])}"
        + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        for note, names in units.items()
    )


def gguf_names(model: Described) -> Callable[[tuple[str, ...]], str]:
    """From all names of a parameter in transformers to its one name in GGUF.

    Raises:
        MissingExtraError: if gguf is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf", "writing GGUF files") from error
    arch = next(
        key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == model.architecture.name
    )
    table = gguf.get_tensor_name_map(arch, model.layers)

    def named(names: tuple[str, ...]) -> str:
        for name in names:
            found = table.get_name(name, try_suffixes=(".weight", ".bias"))
            # A tied head is stored once, as the embedding.
            if found is not None and (len(names) == 1 or found != "output.weight"):
                return str(found)
        raise ExportError(
            f"tensor {one_line(names[0], 80)} has no place in llama.cpp's architecture "
            f"{model.architecture.name!r}; take a plan that leaves the model's structure as it is"
        )

    return named


def _packed(
    source: Source, model: Described, names: Callable[[tuple[str, ...]], str]
) -> Iterator[Entry]:
    for unit in source.units.values():
        packed = unit.packed
        place = names(unit.names)
        chosen = storage(unit.name, packed.format, packed.columns)
        yield Entry(
            place,
            (packed.rows, packed.columns),
            chosen.type,
            _codes(unit, chosen.type, model.row_order(unit.names[0], packed.rows)),
            chosen.note,
            unit.name,
        )


def _codes(unit: Unit, kind: TensorType, rows: npt.NDArray[np.intp]) -> Callable[[], ByteArray]:
    if unit.is_float:
        return lambda: _bytes(unit.packed.tensors["half"][torch.from_numpy(rows)])
    return lambda: blocks(unit, kind, rows)


def _aliases(source: Source, name: str) -> tuple[str, ...]:
    """Other names of a parameter that the plan leaves at 32 bits."""
    for canonical, layer in source.plan.layers.items():
        if name in (together := (canonical, *layer.aliases)):
            return tuple(other for other in together if other != name)
    return ()


def _rope(model: Described) -> Iterator[Entry]:
    factors = model.rope_factors()
    if factors is not None:
        yield Entry("rope_freqs.weight", factors.shape, F32, lambda: factors.view(np.uint8))


def _plain(
    tensors: Mapping[tuple[str, ...], Tensor],
    model: Described,
    names: Callable[[tuple[str, ...]], str],
) -> Iterator[Entry]:
    for (name, *others), tensor in tensors.items():
        place = names((name, *others))
        # llama.cpp adds and multiplies vectors in float32 alone.
        kind = F32 if tensor.dim() == 1 else _FLOATS.get(tensor.dtype)
        if kind is None:
            raise ExportError(
                f"tensor {one_line(name, 80)} is {tensor.dtype}, but GGUF takes float32, float16 "
                "and bfloat16; convert the model"
            )
        offset = model.architecture.norm_offset if place.endswith("_norm.weight") else 0.0
        rows = torch.from_numpy(model.row_order(name, tensor.shape[0]))
        yield Entry(place, tuple(tensor.shape), kind, _floats(tensor, kind, offset, rows))


def _floats(
    tensor: Tensor, kind: TensorType, offset: float, rows: Tensor
) -> Callable[[], ByteArray]:
    def make() -> ByteArray:
        moved = tensor.detach()[rows]
        return _bytes(moved.to(torch.float32) + offset if kind is F32 else moved)

    return make


def _bytes(tensor: Tensor) -> ByteArray:
    """The bytes of a tensor; numpy has no bfloat16, so they are taken in torch."""
    data: ByteArray = tensor.contiguous().view(torch.uint8).numpy()
    return data
