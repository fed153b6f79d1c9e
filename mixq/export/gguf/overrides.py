"""Override: a plan's width as one of llama.cpp's types, which llama.cpp rounds to by itself.

K types (Q2_K to Q6_K) have scales in two levels that no format of mixq has, so the plan decides
the widths and llama.cpp the integers. `argument_file` is for `llama-quantize --tensor-type-file`,
`mixq.export.gguf.quantize` does the same in this process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mixq.errors import ExportError
from mixq.export.gguf.architecture import described
from mixq.export.gguf.contents import gguf_names
from mixq.export.gguf.storage import F16, TYPES
from mixq.export.source import Source
from mixq.files import one_line
from mixq.graph.state import stored_tensors

K_TYPES: Final[Mapping[int, str]] = {
    32: "F32", 16: "F16", 8: "Q8_0", 6: "Q6_K", 5: "Q5_K", 4: "Q4_K", 3: "Q3_K", 2: "Q2_K",
}  # fmt: skip
"""Type of each width."""
_FALLBACK: Final = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Where rows are no whole super-blocks: `tensor_type_fallback` in src/llama-quant.cpp."""


@dataclass(frozen=True)
class Override:
    """The type of one tensor.

    Attributes:
        tensor: its name in GGUF.
        unit: its weight unit in the plan.
        wanted: the type of the plan's width.
        type: what llama.cpp stores, which differs where its blocks do not fit the rows.
    """

    tensor: str
    unit: str
    wanted: str
    type: str

    @property
    def note(self) -> str:
        """What was mapped up, in words; empty if nothing was."""
        if self.wanted == self.type:
            return ""
        return f"{self.wanted} does not fit the rows, stored as {self.type}"


def overrides(source: Source, types: Mapping[int, str] = K_TYPES) -> tuple[Override, ...]:
    """The type of every unit of a plan.

    Args:
        source: the plan and its model.
        types: type of each width, by ggml's names.

    Raises:
        ExportError: for a model that llama.cpp does not know, or a width or type without meaning.
        MissingExtraError: if gguf is not installed.
    """
    names = gguf_names(described(source.model))
    places = {item.names: names(item.names) for item in stored_tensors(source.model)}
    found = []
    for unit, layer in source.plan.layers.items():
        wanted = types.get(layer.bits)
        if wanted not in TYPES:
            raise ExportError(
                f"unit {one_line(unit, 80)} has {layer.bits} bits, for which the type "
                f"{one_line(wanted, 40)} was given; choose from {', '.join(TYPES)}"
            )
        tensor = next(place for all_names, place in places.items() if unit in all_names)
        found.append(Override(tensor, unit, wanted, fallback(wanted, layer.matrix[1])))
    return tuple(found)


def fallback(wanted: str, columns: int) -> str:
    """What llama.cpp takes in place of a type whose blocks do not fit rows of `columns`."""
    if columns % TYPES[wanted].columns == 0:
        return wanted
    other = _FALLBACK.get(wanted, F16.name)
    return other if columns % TYPES[other].columns == 0 else F16.name


def argument_file(found: Iterable[Override]) -> str:
    r"""What `llama-quantize --tensor-type-file` reads: `^blk\.0\.attn_q\.weight$=q4_K`, by line.

    The part before the sign is a regular expression that is searched for in names of tensors
    (`llama_tensor_get_type` in src/llama-quant.cpp), so it is anchored. Types are those of the
    plan's widths, because llama.cpp falls back by itself.
    """
    return "".join(f"^{re.escape(item.tensor)}$={item.wanted.lower()}\n" for item in found)
