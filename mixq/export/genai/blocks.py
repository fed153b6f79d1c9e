"""Blocks: a unit's integers in the layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized.

Both operators read codes row by row, least significant bits first, in blocks of 2^k columns that
share a scale (ContribOperators.md of onnxruntime; for the order of codes in a byte its
matmul_nbits.cc). That is mixq's own order, so nothing but the ends of rows is packed anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from mixq.errors import ExportError
from mixq.export.source import ByteArray, HalfArray, Unit
from mixq.files import one_line
from mixq.formats import SCALE_BYTES, Format, packed_bytes
from mixq.quantize.packing import pack

BLOCKS: Final = (16, 32, 64, 128, 256)
ROW_BLOCKS: Final = (128, 64, 32)
"""Blocks of a unit with one scale per row; at 2 bits those that have an integer kernel."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows of a unit as the operators read them.

    Attributes:
        bits: of a code: 8, 4 or 2.
        block: columns of a block.
        columns: of the matrix; the last block may be ragged.
        data: packed codes, uint8 of shape (rows, bytes of a row).
        scales: float16 of shape (rows, groups).
        zeros: packed zero points, uint8 of shape (rows, bytes of a row's blocks), or of shape
            (rows, 1) with the byte to repeat where a row has one group; None without.
        minimums: float16 of shape (rows, groups) on the affine grid, else None.
        groups: the group of every block, where they are not the same thing, else None.
    """

    bits: int
    block: int
    columns: int
    data: ByteArray
    scales: HalfArray
    zeros: ByteArray | None
    minimums: HalfArray | None
    groups: npt.NDArray[np.int64] | None

    @property
    def count(self) -> int:
        """Blocks of a row."""
        return -(-self.columns // self.block)

    @property
    def zero_bytes(self) -> int:
        """Bytes that a row of zero points takes in the operators."""
        return packed_bytes(self.count, self.bits)


def check_format(name: str, fmt: Format) -> None:
    """Refuse what the operators cannot hold.

    Raises:
        ExportError: with the legal choices.
    """
    if fmt.is_float:
        return
    rule = None
    if fmt.activation != "none":
        rule = "but its products round activations in blocks of their own; drop 'a8'"
    elif fmt.grid == "affine" and fmt.bits == 8:
        rule = "but float minimums are for 4 and 2 bits; choose symmetric or zero-point at 8"
    elif fmt.group_size is not None and fmt.group_size % BLOCKS[0]:
        rule = "but groups are multiples of 16 columns (16 to 256), or whole rows"
    if rule is not None:
        raise ExportError(f"{one_line(name)} is planned as {fmt.name} for onnxruntime-genai, {rule}")


def block_size(fmt: Format, columns: int) -> int:
    """Columns of a block: the group, its largest part that is a power of two, or part of a row."""
    size = fmt.group_size
    if size is None or size >= columns:
        return next((b for b in ROW_BLOCKS if columns % b == 0), ROW_BLOCKS[-1])
    return next(b for b in reversed(BLOCKS) if size % b == 0)


def blocks_of(unit: Unit, rows: slice) -> Blocks:
    """The integers of some rows of a unit."""
    p = unit.packed
    fmt, columns = p.format, p.columns
    block = block_size(fmt, columns)
    groups = fmt.groups_per_row(columns)
    count = -(-columns // block)
    of_block = np.minimum(np.arange(count) * block // (fmt.group_size or columns), groups - 1)
    zeros = unit.zeros
    if zeros is not None:
        repeated = 8 // fmt.bits if groups == 1 else 1
        chosen = zeros[rows].repeat(repeated, axis=1) if groups == 1 else zeros[rows][:, of_block]
        zeros = _packed_rows(chosen, fmt.bits)
    minimums = unit.minimums
    return Blocks(
        bits=fmt.bits,
        block=block,
        columns=columns,
        data=_packed_rows(unit.codes[rows], fmt.bits),
        scales=unit.scales[rows],
        zeros=zeros,
        minimums=None if minimums is None else minimums[rows],
        groups=None if groups == count else of_block.astype(np.int64),
    )


def blocks_bytes(unit: Unit) -> int:
    """What a unit takes in a file, from its format and shape alone."""
    p = unit.packed
    fmt, rows, columns = p.format, p.rows, p.columns
    if fmt.is_float:
        return rows * columns * 2
    groups = fmt.groups_per_row(columns)
    row = packed_bytes(columns, fmt.bits) + groups * SCALE_BYTES
    if fmt.grid == "affine":
        row += groups * SCALE_BYTES
    if fmt.grid == "zero-point":
        count = -(-columns // block_size(fmt, columns))
        row += 1 if groups == 1 else packed_bytes(count, fmt.bits)
    return rows * row


def _packed_rows(codes: ByteArray, bits: int) -> ByteArray:
    """Codes (rows, columns) packed so that every row begins on a byte."""
    missing = -codes.shape[1] % (8 // bits)
    whole = np.pad(codes, ((0, 0), (0, missing)))
    packed: ByteArray = pack(torch.from_numpy(whole), bits).view(len(codes), -1).numpy()
    return packed
