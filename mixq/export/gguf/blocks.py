"""Blocks: a unit's codes, scales and offsets in the bytes of a ggml type, unchanged.

Layouts: `block_q8_0`, `block_q4_0`, `block_q4_1`, `block_q2_K` and `block_q4_K` in llama.cpp's
ggml/src/ggml-common.h, read by `dequantize_blocks` in gguf-py's quants.py. A scale of a larger
group is repeated in each of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mixq.export.gguf.storage import Q2_K, Q4_0, Q4_1, Q4_K, Q8_0, SUPER, TensorType
from mixq.export.source import ByteArray, HalfArray, Unit

Integers = npt.NDArray[np.signedinteger[Any]]


def blocks(unit: Unit, kind: TensorType, rows: npt.NDArray[np.intp]) -> ByteArray:
    """Bytes of shape (rows, bytes of a row), of some rows of a unit.

    Args:
        unit: at 8, 4 or 2 bits.
        kind: what `storage` chose for it.
        rows: which rows, in the order of the file.
    """
    fmt = unit.packed.format
    codes = unit.codes[rows].astype(np.int16)
    columns = codes.shape[1]
    size = fmt.group_size or columns
    # The group that each block belongs to, shape (blocks of a row,).
    group = np.arange(0, columns, kind.columns) // size
    scales = unit.scales[rows][:, group]
    minimums = None if unit.minimums is None else unit.minimums[rows][:, group]
    if unit.zeros is None:
        zeros: Integers = np.full(scales.shape, 1 << (fmt.bits - 1), np.int16)
    else:
        zeros = unit.zeros[rows][:, group].astype(np.int16)
    values = codes.reshape(*scales.shape, kind.columns)
    parts = _PARTS[kind.name](values, scales, zeros, minimums)
    joined: ByteArray = np.concatenate(parts, axis=-1).reshape(len(rows), -1)
    assert joined.shape[1] == columns // kind.columns * kind.block_bytes
    return joined


def _q8_0(
    codes: Integers, scales: HalfArray, zeros: Integers, minimums: HalfArray | None
) -> list[ByteArray]:
    signed = (codes - zeros[..., None]).astype(np.int8)
    return [_bytes(scales), signed.view(np.uint8)]


def _q4_0(
    codes: Integers, scales: HalfArray, zeros: Integers, minimums: HalfArray | None
) -> list[ByteArray]:
    return [_bytes(scales), _nibbles(codes - zeros[..., None] + Q4_0.largest)]


def _q4_1(
    codes: Integers, scales: HalfArray, zeros: Integers, minimums: HalfArray | None
) -> list[ByteArray]:
    assert minimums is not None
    return [_bytes(scales), _bytes(minimums), _nibbles(codes)]


def _q2_k(
    codes: Integers, scales: HalfArray, zeros: Integers, minimums: HalfArray | None
) -> list[ByteArray]:
    offset, factor = _subtracted(scales, zeros, minimums)
    # Sixteen sub-blocks, each with 1 as its scale (low half) and its factor of the offset.
    each = np.repeat((1 | factor << 4).astype(np.uint8)[..., None], 16, axis=-1)
    quarters = codes.reshape(*codes.shape[:-1], 2, 4, 32).astype(np.uint8)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    packed = np.bitwise_or.reduce(quarters << shifts, axis=-2)
    return [each, packed.reshape(*codes.shape[:-1], -1), _bytes(scales), _bytes(offset)]


def _q4_k(
    codes: Integers, scales: HalfArray, zeros: Integers, minimums: HalfArray | None
) -> list[ByteArray]:
    offset, factor = _subtracted(scales, zeros, minimums)
    # Eight sub-blocks of 6-bit scales (all 1) and factors (below 16): the first four whole, of
    # the others the low halves; their high bits, which share bytes with the first, are zero.
    one = np.ones_like(factor)
    six = [one] * 4 + [factor] * 4 + [one | factor << 4] * 4
    each: ByteArray = np.stack(six, -1).astype(np.uint8)
    halves: ByteArray = codes.astype(np.uint8).reshape(*codes.shape[:-1], SUPER // 64, 2, 32)
    packed = halves[..., 0, :] | (halves[..., 1, :] << np.uint8(4))
    return [_bytes(scales), _bytes(offset), each, packed.reshape(*codes.shape[:-1], -1)]


_PARTS: Final[dict[str, Callable[..., list[ByteArray]]]] = {
    Q8_0.name: _q8_0, Q4_0.name: _q4_0, Q4_1.name: _q4_1, Q2_K.name: _q2_k, Q4_K.name: _q4_k,
}  # fmt: skip


def _subtracted(
    scales: HalfArray, zeros: Integers, minimums: HalfArray | None
) -> tuple[HalfArray, Integers]:
    """What K types subtract, a float16 and a small factor: minimums, or scale x zero point."""
    if minimums is not None:
        return -minimums, np.ones_like(zeros)
    return scales, zeros


def _bytes(halves: HalfArray) -> ByteArray:
    """Float16 of shape (rows, blocks) as little-endian bytes of shape (rows, blocks, 2)."""
    little: ByteArray = np.ascontiguousarray(halves, "<f2")[..., None].view(np.uint8)
    return little


def _nibbles(codes: Integers) -> ByteArray:
    """32 codes below 16 in 16 bytes: the first half low, the second half high."""
    small: ByteArray = codes.astype(np.uint8)
    return small[..., :16] | (small[..., 16:] << np.uint8(4))
