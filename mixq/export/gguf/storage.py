"""TensorType: ggml's ways to store a matrix, and which of them holds a format exactly.

A type stores each row in blocks of consecutive columns. Sizes: `GGML_QUANT_SIZES` in gguf-py's
constants.py; layouts: ggml/src/ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mixq.errors import ExportError
from mixq.files import one_line
from mixq.formats import Format

SUPER: Final = 256
"""Columns of a super-block of the K types."""


@dataclass(frozen=True)
class TensorType:
    """A ggml type.

    Attributes:
        name: as gguf and `llama-quantize` spell it.
        columns: weights of a block.
        block_bytes: bytes of a block.
        largest: largest difference of a code from its zero point, either way; 0 for floats.
    """

    name: str
    columns: int
    block_bytes: int
    largest: int = 0

    def stored_bytes(self, rows: int, columns: int) -> int:
        """Exact bytes of a (rows, columns) matrix; `columns` is whole blocks."""
        return rows * (columns // self.columns) * self.block_bytes


F32: Final = TensorType("F32", 1, 4)
F16: Final = TensorType("F16", 1, 2)
BF16: Final = TensorType("BF16", 1, 2)
Q8_0: Final = TensorType("Q8_0", 32, 34, largest=128)
Q4_0: Final = TensorType("Q4_0", 32, 18, largest=8)
Q4_1: Final = TensorType("Q4_1", 32, 20)
Q5_0: Final = TensorType("Q5_0", 32, 22)
Q5_1: Final = TensorType("Q5_1", 32, 24)
Q2_K: Final = TensorType("Q2_K", SUPER, 84)
Q3_K: Final = TensorType("Q3_K", SUPER, 110)
Q4_K: Final = TensorType("Q4_K", SUPER, 144)
Q5_K: Final = TensorType("Q5_K", SUPER, 176)
Q6_K: Final = TensorType("Q6_K", SUPER, 210)
TYPES: Final = {
    kind.name: kind
    for kind in (
        *(F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1, Q4_0),
        *(Q6_K, Q5_K, Q4_K, Q3_K, Q2_K),
    )
}
"""By name."""

EXACT: Final = (
    "w32, w16 and w16-bf16; w8, w8-reduced and w8-signed; w4, w4-signed, w4-zp and w4-affine; "
    "w2, w2-signed, w2-zp and w2-affine; each per channel or in groups of 32, 64, 128 or 256"
)
"""The legal choices, for messages."""


@dataclass(frozen=True)
class Storage:
    """How a unit is stored.

    Attributes:
        type: of its tensor.
        note: what was mapped up, in words; empty where the type is the format's own width.
    """

    type: TensorType
    note: str = ""


def storage(unit: str, fmt: Format, columns: int) -> Storage:
    """The smallest type that holds every code, scale and offset of a format as they are.

    Args:
        unit: its name, for messages.
        fmt: its format.
        columns: of its matrix.

    Raises:
        ExportError: if no type does, with the legal choices.
    """
    if fmt.bits == 32:
        return Storage(F32)
    if fmt.bits == 16:
        return Storage(BF16 if fmt.grid == "bfloat16" else F16)
    if fmt.activation != "none":
        raise _refused(
            unit, fmt, "llama.cpp rounds activations in its own way, 32 columns at a time; "
            f"take the format without '-{fmt.activation}'",
        )  # fmt: skip
    if columns % Q8_0.columns:
        raise _refused(
            unit, fmt, f"its rows have {columns} weights, which are no whole blocks of "
            f"{Q8_0.columns}; keep it at w16 or w32",
        )  # fmt: skip
    if fmt.group_size is not None and fmt.group_size % Q8_0.columns:
        raise _refused(unit, fmt, f"its groups are no whole blocks of {Q8_0.columns}; {_CHOICES}")
    if fmt.bits == 8 and fmt.grid in ("zero-point", "affine"):
        raise _refused(
            unit, fmt, f"GGUF's 8-bit type has neither zero points nor minimums; {_CHOICES}"
        )
    whole = columns % SUPER == 0 and fmt.group_size in (None, SUPER)
    if fmt.bits == 2 and whole:
        return Storage(Q2_K)
    if fmt.bits == 8:
        return Storage(Q8_0)
    if fmt.grid == "affine":
        own = Q4_K if whole else Q4_1
    elif fmt.grid == "zero-point" and fmt.bits == 4:
        own = Q4_K if whole else Q8_0
    else:
        own = Q4_0
    width = 8 if own is Q8_0 else 4
    note = "" if width == fmt.bits else f"{fmt.name} is stored as {own.name}, at {width} bits"
    return Storage(own, note)


_CHOICES: Final = f"choose from {EXACT}"


def _refused(unit: str, fmt: Format, why: str) -> ExportError:
    return ExportError(f"unit {one_line(unit, 80)} is planned as {fmt.name}: {why}")
