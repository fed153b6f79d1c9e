"""Decompression subgraphs: packed constants that OpenVINO's kernels read without unpacking.

Constant, Convert, Subtract (zero points), Multiply (scales), Reshape, Convert: the pattern that
its CPU plug-in keeps packed in matrix products and, at 8 and 4 bits, in lookups
(openvino 2026.4, common/transformations: mark_dequantization_subgraph, keep_const_precision).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
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
        matrix = ops.concat(self._parts(unit), 1) if _is_ragged(unit) else self._parts(unit)[0]
        shaped = ops.reshape(matrix, ops.constant(np.array(unit.packed.shape)), False)
        return ops.convert(shaped, "f32")

    def _parts(self, unit: Unit) -> list[Any]:
        """The matrix as float16: its whole groups, and a last one if that is short."""
        size, columns = group_size(unit), unit.packed.columns
        whole = columns // size * size
        times = math.ceil(columns / size) // unit.packed.format.groups_per_row(columns)
        parts = []
        for low, high, width in ((0, whole, size), (whole, columns, columns - whole)):
            if low < high:
                groups = slice(low // size, math.ceil(high / size))
                parts.append(self._part(unit, slice(low, high), groups, width, max(times, 1)))
        return parts

    def _part(self, unit: Unit, columns: slice, groups: slice, width: int, times: int) -> Any:
        from openvino import opset15 as ops

        p, fmt = unit.packed, unit.packed.format

        def grouped(array: Any) -> Any:
            return np.ascontiguousarray(np.repeat(array, times, axis=1)[:, groups, None])

        codes = unit.codes[:, columns].reshape(p.rows, -1, width)
        floats = ops.convert(self._constant(codes, fmt.bits), "f16")
        if unit.zeros is not None:
            zeros = self._constant(grouped(unit.zeros), fmt.bits)
            floats = ops.subtract(floats, ops.convert(zeros, "f16"))
        elif unit.minimums is None:
            middle = np.array(1 << (fmt.bits - 1), dtype=np.float16)
            floats = ops.subtract(floats, ops.constant(middle))
        scaled = ops.multiply(floats, self._floats(grouped(unit.scales)))
        if unit.minimums is not None:
            scaled = ops.add(scaled, self._floats(grouped(unit.minimums)))
        flat = np.array([p.rows, columns.stop - columns.start])
        return ops.reshape(scaled, ops.constant(flat), False)

    def _floats(self, array: Any) -> Any:
        from openvino import opset15 as ops

        self.stored_bytes += array.nbytes
        return ops.constant(array)

    def _half(self, unit: Unit) -> Any:
        import openvino

        half = unit.packed.tensors["half"].contiguous()
        if str(half.dtype) == "torch.float16":
            return self._floats(half.numpy())
        bits = half.view(torch.int16).numpy()
        self.stored_bytes += bits.nbytes
        self._held.append(bits)
        shape = openvino.Shape(half.shape)
        return openvino.op.Constant(openvino.Tensor(bits, shape, openvino.Type.bf16))

    def _constant(self, values: Any, bits: int) -> Any:
        """Unsigned integers as a constant of u8, u4 or u2, low bits first."""
        import openvino

        kind = {8: openvino.Type.u8, 4: openvino.Type.u4, 2: openvino.Type.u2}[bits]
        packed = _packed(values, bits)
        self._held.append(packed)
        self.stored_bytes += packed.nbytes
        return openvino.op.Constant(openvino.Tensor(packed, openvino.Shape(values.shape), kind))


def group_size(unit: Unit) -> int:
    """Columns that share a scale in the file.

    The unit's own, but where it does not divide the columns of a matrix, what divides both from
    16 on: OpenVINO's kernels take no short last group, so scales are stored more than once.
    """
    p = unit.packed
    size = p.columns if p.format.group_size is None else min(p.format.group_size, p.columns)
    common = math.gcd(size, p.columns)
    return common if len(p.shape) == 2 and common >= 16 else size


def predicted_bytes(unit: Unit) -> int:
    """Bytes that a unit takes in the file; those of the plan unless scales are repeated."""
    p = unit.packed
    if unit.is_float:
        return p.stored_bytes
    groups = p.rows * math.ceil(p.columns / group_size(unit))
    zeros = packed_bytes(groups, p.format.bits) if unit.zeros is not None else 0
    minimums = 2 * groups if unit.minimums is not None else 0
    return packed_bytes(p.rows * p.columns, p.format.bits) + 2 * groups + zeros + minimums


def _is_ragged(unit: Unit) -> bool:
    return unit.packed.columns % group_size(unit) != 0 and unit.packed.columns > group_size(unit)


def _packed(values: Any, bits: int) -> Any:
    """Integers of any shape as packed bytes, low bits first, without gaps."""
    per_byte = 8 // bits
    flat = values.reshape(-1)
    lanes = np.pad(flat, (0, -len(flat) % per_byte)).reshape(-1, per_byte)
    packed = np.zeros(len(lanes), dtype=np.uint8)
    for lane in range(per_byte):
        packed |= lanes[:, lane] << (lane * bits)
    return packed
