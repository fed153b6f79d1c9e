"""Operands: a unit's codes, scales and zero points as initializers, each stored once.

The file holds exactly what the plan stores: packed codes without padding, scales in float16, zero
points packed. Nodes at the start of the graph turn them into what a kernel wants (float32 scales,
rows filled up to whole blocks). They depend on initializers alone, so ONNX Runtime runs them once,
while it loads the file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mixq.export.onnx.nodes import Nodes, initializer
from mixq.export.source import Unit

if TYPE_CHECKING:
    import onnx_ir as ir

PARTS: Final = ("codes", "half", "scales", "zeros", "minimums", "input_scale", "input_zero")
"""What a unit may store: `NAME.codes` is an initializer, and so on."""
_UINT8, _INT32, _FLOAT = 2, 6, 1  # onnx.TensorProto.DataType
_MADE: Final = {(False, False): 2, (False, True): 3, (True, False): 21, (True, True): 22}
"""onnx.TensorProto.DataType of integers that nodes make, by whether of 4 bits, and signed."""


class Operands:
    """One unit's operands in one graph.

    Args:
        graph: that holds them.
        unit: of 16 or fewer bits.
        start: collects the nodes that go to the start of the graph.
    """

    def __init__(self, graph: ir.Graph, unit: Unit, start: Nodes) -> None:
        self.unit, self.fmt = unit, unit.packed.format
        self.rows, self.columns = unit.packed.rows, unit.packed.columns
        self._graph, self.start = graph, start
        self._made: dict[Hashable, ir.Value] = {}

    def stored_bytes(self) -> int:
        """Bytes of the initializers that were made for the unit so far."""
        starts = tuple(f"{self.unit.name}.{part}" for part in PARTS)
        values = [v for n, v in self._graph.initializers.items() if n.startswith(starts)]
        return sum(v.const_value.nbytes for v in values if v.const_value is not None)

    def floats(self) -> ir.Value:
        """16-bit floats as float32, in the shape of the parameter."""
        return self._cast("half", lambda: half_floats(self.unit))

    def half(self) -> ir.Value:
        """16-bit floats as they are stored, in the shape of the parameter."""
        return self._initializer("half", half_floats(self.unit))

    def typed_codes(self, *, signed: bool) -> ir.Value:
        """Codes as UINT8, UINT4 or UINT2 (rows, columns); less 2^(bits-1) as INT8 and so on."""
        return self._integers("codes", self.unit.codes, signed=signed)

    def byte_codes(self, multiple: int = 1) -> ir.Value:
        """Unsigned codes packed row by row, low bits first, as uint8 (rows, bytes).

        Args:
            multiple: columns that rows are filled up to a multiple of, with codes of zero.
        """
        width = -(-self.columns // multiple) * multiple
        return self._byte_rows("codes", self.unit.codes, width)

    def byte_zeros(self, block: int | None = None) -> ir.Value:
        """Zero points packed row by row, low bits first, as uint8 (rows, bytes).

        Args:
            block: as in `scales`.
        """
        zeros = self.unit.zeros
        assert zeros is not None
        blocks, times = self._blocks(block)
        if times == 1:
            return self._byte_rows("zeros", zeros, zeros.shape[1])
        plain = self._once(
            "uint8 zeros", lambda: self.start.op("Cast", [self.typed_zeros()], {"to": _UINT8})
        )
        wide = self._repeated("uint8 zeros", plain, block)
        missing = -blocks % (8 // self.fmt.bits)
        return self._once(("byte zeros", block), lambda: self._packed(wide, missing))

    def typed_zeros(self) -> ir.Value:
        """Zero points as UINT8, UINT4 or UINT2 (rows, groups)."""
        zeros = self.unit.zeros
        assert zeros is not None
        return self._integers("zeros", zeros, signed=False)

    def scales(self, block: int | None = None) -> ir.Value:
        """Scales as float32 (rows, groups).

        Args:
            block: columns that divide the unit's groups; a group's scale is repeated for each of
                its blocks.
        """
        return self._repeated("scales", self._cast("scales", lambda: self.unit.scales), block)

    def minimums(self) -> ir.Value:
        """Float minimums of the affine grid as float32 (rows, groups)."""
        return self._cast("minimums", lambda: self.unit.minimums)

    def add(self, part: str, array: Any) -> ir.Value:
        """A further initializer of the unit: `input_scale`, `input_zero`."""
        return self._initializer(part, array)

    def owners(self, size: int) -> ir.Value:
        """Which group of `size` each column belongs to, int64 (columns,)."""

        def make() -> Any:
            start = self.start
            bounds = [start.constant(number) for number in (0, self.columns, 1)]
            return start.op("Div", [start.op("Range", bounds), start.constant(size)])

        return self._once(("owners", size), make)

    def membership(self) -> ir.Value:
        """1 where a column belongs to a group, else 0; float32 (columns, groups).

        A product with it sums an input by groups, of any rank and with a short last group.
        """
        size = self.columns if self.fmt.group_size is None else self.fmt.group_size
        key = ("membership", self.columns, size)
        if key not in self.start.shared:
            start, groups = self.start, self.fmt.groups_per_row(self.columns)
            owner = start.op("Unsqueeze", [self.owners(size), start.constant([1])])
            group = start.op("Range", [start.constant(number) for number in (0, groups, 1)])
            member = start.op("Equal", [owner, group])
            self.start.shared[key] = start.op("Cast", [member], {"to": _FLOAT})
        return self.start.shared[key]

    def lifts(self) -> ir.Value:
        """Minimum + 2^(bits-1) x scale, float32 (rows, groups): the affine grid's middle."""

        def make() -> Any:
            half = self.start.constant([1 << (self.fmt.bits - 1)], np.float32)
            return self.start.op(
                "Add", [self.minimums(), self.start.op("Mul", [self.scales(), half])]
            )

        return self._once("lifts", make)

    def _integers(self, part: str, values: Any, *, signed: bool) -> ir.Value:
        """Typed integers (rows, columns), made by nodes where another user stored packed bytes."""
        bits, stored = self.fmt.bits, self._graph.initializers.get(f"{self.unit.name}.{part}")
        # ONNX Runtime 1.31 cannot fold 2-bit integers; bytes do where zero points need no match.
        foldable = bits != 2 or self.unit.zeros is None
        if stored is not None and _dtype(stored) == np.uint8 and (signed or bits < 8) and foldable:
            packed = stored
            return self._once((part, "typed", signed), lambda: self._typed(packed, signed=signed))
        if signed:
            values = (values.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
        return self._initializer(part, values.astype(_integer(bits, signed=signed)))

    def _initializer(self, part: str, array: Any) -> ir.Value:
        name = f"{self.unit.name}.{part}"
        found = self._graph.initializers.get(name)
        if found is not None and (found.shape, _dtype(found)) != (array.shape, array.dtype):
            # Two users want different layouts, which no node converts: stored once more.
            name += f".{array.dtype}"
        return initializer(self._graph, name, array)

    def _once(self, key: Hashable, make: Callable[[], Any]) -> ir.Value:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _cast(self, part: str, array: Callable[[], Any]) -> ir.Value:
        def make() -> Any:
            return self.start.op("Cast", [self._initializer(part, array())], {"to": _FLOAT})

        return self._once((part, "float32"), make)

    def _blocks(self, block: int | None) -> tuple[int, int]:
        """Blocks of a row, and how many of them share a group."""
        own = self.fmt.groups_per_row(self.columns)
        if block is None:
            return own, 1
        blocks = -(-self.columns // block)
        return blocks, blocks if own == 1 else (self.fmt.group_size or block) // block

    def _repeated(self, part: str, value: ir.Value, block: int | None) -> ir.Value:
        """Each of a row's numbers once for every block of its group."""
        own = self.fmt.groups_per_row(self.columns)
        blocks, times = self._blocks(block)
        if times == 1:
            return value

        def make() -> Any:
            start = self.start
            column = start.op("Unsqueeze", [value, start.constant([2])])
            wide = start.op("Expand", [column, start.constant([self.rows, own, times])])
            flat = start.op("Reshape", [wide, start.constant([self.rows, own * times])])
            if own * times == blocks:
                return flat
            # The last group is short, and so are its blocks fewer.
            bounds = [start.constant([n]) for n in (0, blocks, 1)]
            return start.op("Slice", [flat, *bounds])

        return self._once((part, block), make)

    def _byte_rows(self, part: str, values: Any, width: int) -> ir.Value:
        """Integers (rows, columns) as packed bytes of rows that are `width` integers wide."""
        bits, columns = self.fmt.bits, values.shape[1]
        row_bytes = -(-width * bits // 8)
        missing = row_bytes * 8 // bits - columns
        known = self._graph.initializers.get(f"{self.unit.name}.{part}")
        if known is not None and _dtype(known) != np.uint8:
            typed = self._unsigned(known)
            return self._once((part, "bytes", width), lambda: self._packed(typed, missing))
        if columns * bits % 8 == 0:
            stored = self._initializer(part, _packed_rows(values, bits))
            missing = row_bytes - columns * bits // 8
            return (
                stored
                if missing == 0
                else self._once((part, "bytes", width), lambda: self._padded(stored, missing))
            )
        # Rows that end within a byte are stored without gaps, as ONNX packs its small integers.
        typed = self._integers(part, values, signed=False)
        return self._once((part, "bytes", width), lambda: self._packed(typed, missing))

    def _unsigned(self, typed: ir.Value) -> Any:
        """Codes as INT32 from what another user of the unit stored, signed or not."""
        wide = self.start.op("Cast", [typed], {"to": _INT32})
        if _dtype(typed) == _integer(self.fmt.bits, signed=False):
            return wide
        half = self.start.constant([1 << (self.fmt.bits - 1)], np.int32)
        return self.start.op("Add", [wide, half])

    def _typed(self, stored: ir.Value, *, signed: bool) -> Any:
        """Typed integers (rows, columns) from the packed bytes that another user stored."""
        start, bits = self.start, self.fmt.bits
        numbers = start.op("Cast", [stored], {"to": _INT32})
        lanes = start.constant([1 << (bits * lane) for lane in range(8 // bits)], np.int32)
        column = start.op("Unsqueeze", [numbers, start.constant([2])])
        shifted = start.op("Div", [column, lanes])
        codes = start.op("Mod", [shifted, start.constant([1 << bits], np.int32)])
        flat = start.op("Reshape", [codes, start.constant([self.rows, -1])])
        if signed:
            flat = start.op("Sub", [flat, start.constant([1 << (bits - 1)], np.int32)])
        return start.op("Cast", [flat], {"to": _MADE[bits == 4, signed]})

    def _padded(self, rows: ir.Value, missing: int) -> Any:
        return self.start.op("Pad", [rows, self.start.constant([0, 0, 0, missing])])

    def _packed(self, typed: ir.Value, missing: int) -> Any:
        """Typed integers (rows, columns), filled up, as packed bytes."""
        start, bits = self.start, self.fmt.bits
        per_byte = 8 // bits
        wide = self._padded(start.op("Cast", [typed], {"to": _UINT8}), missing)
        lanes = start.op("Reshape", [wide, start.constant([self.rows, -1, per_byte])])
        numbers = start.op("Cast", [lanes], {"to": _INT32})
        shifts = start.constant([1 << (bits * lane) for lane in range(per_byte)], np.int32)
        placed = start.op("Mul", [numbers, shifts])
        joined = start.op("ReduceSum", [placed, start.constant([2])], {"keepdims": 0})
        return start.op("Cast", [joined], {"to": _UINT8})


def _dtype(value: Any) -> Any:
    return value.const_value.numpy().dtype


def _packed_rows(values: Any, bits: int) -> Any:
    """Integers (rows, columns) packed row by row, low bits first, as uint8 (rows, bytes)."""
    per_byte = 8 // bits
    lanes = values.reshape(values.shape[0], -1, per_byte)
    packed = np.zeros(lanes.shape[:2], dtype=np.uint8)
    for lane in range(per_byte):
        packed |= lanes[:, :, lane] << (lane * bits)
    return packed


def _integer(bits: int, *, signed: bool) -> Any:
    import ml_dtypes

    kinds = {
        (8, False): np.uint8, (8, True): np.int8,
        (4, False): ml_dtypes.uint4, (4, True): ml_dtypes.int4,
        (2, False): ml_dtypes.uint2, (2, True): ml_dtypes.int2,
    }  # fmt: skip
    return kinds[bits, signed]


def half_floats(unit: Unit) -> Any:
    """16-bit floats in the parameter's shape, float16 or bfloat16."""
    import ml_dtypes
    import torch

    half = unit.packed.tensors["half"].contiguous()
    if half.dtype == torch.bfloat16:
        return half.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return half.numpy()
