"""Decompression subgraphs: packed constants that OpenVINO's kernels read without unpacking.

Constant, Convert, Subtract (zero points), Multiply (scales), Reshape, Convert: the pattern that
its CPU plug-in keeps packed in matrix products and, at 8 and 4 bits, in lookups
(openvino 2026.4, common/transformations: mark_dequantization_subgraph, keep_const_precision).
Where its packed kernels are missing or wrong, see `is_packed`, a second Reshape hides the pattern
from them, and OpenVINO unpacks the weights while it compiles the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mixq.export.source import Unit
from mixq.formats import packed_bytes


class Decompression:
    """Builds the subgraphs of one model.

    OpenVINO's constants share memory with the arrays that they are made of, so this object has to
    live until the model is written.

    Attributes:
        stored_bytes: of the units' constants so far.
    """

    def __init__(self) -> None:
        self.stored_bytes = 0
        self._held: list[Any] = []

    def weights(self, unit: Unit) -> Any:
        """The unit's float32 weights in the shape of the parameter, as a node."""
        from openvino import opset15 as ops

        if unit.is_float:
            return ops.convert(self._half(unit), "f32")
        blocks, shape = _blocks(unit), unit.packed.shape
        if is_packed(unit):  # one Reshape alone: behind two OpenVINO unpacks the weights
            return ops.convert(self._part(unit, blocks[0], shape), "f32")
        rows = unit.packed.rows
        parts = [self._part(unit, block, (rows, block.high - block.low)) for block in blocks]
        shaped = ops.reshape(ops.concat(parts, 1), ops.constant(np.array(shape)), False)
        return ops.convert(shaped, "f32")

    def _part(self, unit: Unit, block: _Block, shape: tuple[int, ...]) -> Any:
        """Columns of the matrix as float16 of a shape."""
        from openvino import opset15 as ops

        p, fmt = unit.packed, unit.packed.format
        groups = block.starts // (fmt.group_size or p.columns)

        def name(part: str) -> str:
            return f"{unit.name}.{part}" + (f".{block.low}" if block.low else "")

        def grouped(array: Any) -> Any:
            return np.ascontiguousarray(array[:, groups, None])

        codes = unit.codes[:, block.low : block.high].reshape(p.rows, -1, block.width)
        floats = ops.convert(self._integers(name("codes"), codes, fmt.bits), "f16")
        if unit.zeros is not None:
            zeros = self._integers(name("zeros"), grouped(unit.zeros), fmt.bits)
            floats = ops.subtract(floats, ops.convert(zeros, "f16"))
        elif unit.minimums is None:
            middle = np.array(1 << (fmt.bits - 1), dtype=np.float16)
            floats = ops.subtract(floats, ops.constant(middle))
        scaled = ops.multiply(floats, self._floats(name("scales"), grouped(unit.scales)))
        if unit.minimums is not None:
            scaled = ops.add(scaled, self._floats(name("minimums"), grouped(unit.minimums)))
        return ops.reshape(scaled, ops.constant(np.array(shape)), False)

    def _half(self, unit: Unit) -> Any:
        half = unit.packed.tensors["half"].contiguous()
        name = f"{unit.name}.half"
        if half.dtype == torch.float16:
            return self._floats(name, half.numpy())
        return self._constant(name, half.view(torch.int16).numpy(), half.shape, "bf16")

    def _floats(self, name: str, array: Any) -> Any:
        return self._constant(name, array, array.shape, "f16")

    def _integers(self, name: str, values: Any, bits: int) -> Any:
        """Unsigned integers as a constant of u8, u4 or u2, low bits first."""
        return self._constant(name, _packed(values, bits), values.shape, f"u{bits}")

    def _constant(self, name: str, array: Any, shape: Sequence[int], kind: str) -> Any:
        """The bytes of an array as a constant of a type of OpenVINO."""
        import openvino

        self._held.append(array)
        self.stored_bytes += array.nbytes
        tensor = openvino.Tensor(array, openvino.Shape(shape), getattr(openvino.Type, kind))
        constant = openvino.op.Constant(tensor)
        constant.set_friendly_name(name)
        return constant


def group_size(unit: Unit) -> int:
    """Columns that share a scale in the file.

    The unit's own, but where a matrix has several groups to the row, the largest power of two
    from 16 on that divides both them and the row: OpenVINO's kernels take no other groups, so
    scales are stored more than once.
    """
    p = unit.packed
    size = p.columns if p.format.group_size is None else min(p.format.group_size, p.columns)
    if len(p.shape) != 2 or size == p.columns:
        return size
    common = math.gcd(size, p.columns)
    power = common & -common
    return power if power >= 16 else size


def is_packed(unit: Unit) -> bool:
    """Whether OpenVINO may compute with the packed codes.

    Its kernels compute wrong numbers, without a word, where a row of codes does not end on a
    whole byte, and for several groups to the row that are no power of two (openvino 2026.4 on
    AVX-512 with VNNI, products of 1 and 7 rows; errors of 5 to 150%). With float minimums it has
    none.
    """
    p, size = unit.packed, group_size(unit)
    if p.format.is_float or unit.minimums is not None or p.columns * p.format.bits % 8:
        return False
    return size == p.columns or (p.columns % size == 0 and size & (size - 1) == 0)


def predicted_bytes(unit: Unit) -> int:
    """Bytes that a unit takes in the file; those of the plan unless scales are repeated."""
    p = unit.packed
    if unit.is_float:
        return p.stored_bytes
    return sum(_block_bytes(unit, block) for block in _blocks(unit))


@dataclass(frozen=True)
class _Block:
    """Columns `low` to `high` of a matrix, in groups of `width`."""

    low: int
    high: int
    width: int

    @property
    def starts(self) -> npt.NDArray[np.intp]:
        """First column of each group."""
        return np.arange(self.low, self.high, self.width)


def _blocks(unit: Unit) -> list[_Block]:
    """The whole groups of a unit, and a last one if that is short."""
    size, columns = group_size(unit), unit.packed.columns
    whole = columns // size * size
    blocks = [_Block(0, whole, size), _Block(whole, columns, columns - whole)]
    return [block for block in blocks if block.low < block.high]


def _block_bytes(unit: Unit, block: _Block) -> int:
    rows, bits = unit.packed.rows, unit.packed.format.bits
    groups = rows * len(block.starts)
    zeros = packed_bytes(groups, bits) if unit.zeros is not None else 0
    minimums = 2 * groups if unit.minimums is not None else 0
    return packed_bytes(rows * (block.high - block.low), bits) + 2 * groups + zeros + minimums


def _packed(values: Any, bits: int) -> Any:
    """Integers of any shape as packed bytes, low bits first, without gaps."""
    per_byte = 8 // bits
    flat = values.reshape(-1)
    lanes = np.pad(flat, (0, -len(flat) % per_byte)).reshape(-1, per_byte)
    packed = np.zeros(len(lanes), dtype=np.uint8)
    for lane in range(per_byte):
        packed |= lanes[:, lane] << (lane * bits)
    return packed
