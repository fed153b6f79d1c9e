"""Places: which rows of which unit each weight of the builder's graph holds.

Weights are found by value. The builder names them its own way, architecture by architecture, cuts
fused matrices (Phi-3's `qkv_proj`) into rows, and transposes them; but it computes nothing, so a
weight that it wrote equals the floats of its unit bit by bit. What equals no unit stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mixq.errors import ExportError
from mixq.export.source import Source, Unit
from mixq.files import one_line

if TYPE_CHECKING:
    import onnx_ir as ir

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Place:
    """One weight of the graph that holds rows of a unit.

    Attributes:
        unit: whose weights they are.
        rows: which of its rows.
        value: the initializer, (columns, rows) for products and (rows, columns) else.
        transposed: whether it is (columns, rows).
        products: MatMul nodes that multiply by it.
        lookups: Gather nodes that read its rows.
    """

    unit: Unit
    rows: slice
    value: ir.Value
    transposed: bool
    products: tuple[ir.Node, ...]
    lookups: tuple[ir.Node, ...]


@dataclass(frozen=True, eq=False)
class _Uses:
    products: list[ir.Node] = field(default_factory=list)
    lookups: list[ir.Node] = field(default_factory=list)
    transposed: set[bool] = field(default_factory=set)
    others: list[ir.Node] = field(default_factory=list)


def places(graph: ir.Graph, source: Source) -> list[Place]:
    """Where every unit of the plan is in the builder's graph.

    Raises:
        ExportError: if a unit, or a part of one, is nowhere.
    """
    state = source.restored.state_dict()
    matrices: dict[str, FloatArray] = {
        name: state[unit.names[0]].float().reshape(unit.packed.rows, -1).numpy()
        for name, unit in source.units.items()
    }
    found = []
    for value in graph.initializers.values():
        uses = _uses(value)
        if uses.others or len(uses.transposed) != 1 or value.const_value is None:
            continue
        transposed = uses.transposed.pop()
        array = value.const_value.numpy()
        matrix = np.ascontiguousarray(array.T if transposed else array)
        where = next(_matches(matrix, matrices, used=[p for p in found if not p.lookups]), None)
        if where is not None:
            unit, start = source.units[where[0]], where[1]
            rows = slice(start, start + len(matrix))
            products, lookups = tuple(uses.products), tuple(uses.lookups)
            found.append(Place(unit, rows, value, transposed, products, lookups))
    _check_complete(found, source.units)
    return found


def _uses(value: ir.Value) -> _Uses:
    """How the graph reads a float matrix."""
    uses = _Uses()
    shape = value.shape
    if shape is None or len(shape) != 2:
        return _Uses(others=list(value.consumers()))
    for node, index in value.uses():
        match node.op_type, index:
            case "MatMul", 1:
                uses.products.append(node)
                uses.transposed.add(True)
            case "Gather", 0 if _axis(node) == 0:
                uses.lookups.append(node)
                uses.transposed.add(False)
            case "Transpose", 0:  # how the builder reads the rows of a tied head
                readers = [(n, i, _axis(n)) for n, i in node.outputs[0].uses()]
                good = all((n.op_type, i, a) == ("Gather", 0, 0) for n, i, a in readers)
                (uses.lookups if good else uses.others).extend(n for n, _, _ in readers)
                uses.transposed.add(True)
            case _:
                uses.others.append(node)
    return uses


def _axis(node: ir.Node) -> int:
    axis: Any = node.attributes.get("axis")
    return 0 if axis is None else int(axis.value)


def _matches(
    matrix: FloatArray, units: Mapping[str, FloatArray], used: list[Place]
) -> Iterator[tuple[str, int]]:
    """(unit, first row) of the rows that equal `matrix`, those that nothing holds yet first."""
    taken = {(place.unit.name, place.rows.start) for place in used}
    late = []
    for name, floats in units.items():
        if floats.shape[1] != matrix.shape[1] or len(floats) < len(matrix):
            continue
        for start in _starts(matrix[0], floats[: len(floats) - len(matrix) + 1]):
            if np.array_equal(floats[start : start + len(matrix)], matrix):
                if (name, start) not in taken:
                    yield name, start
                late.append((name, start))
    yield from late


def _starts(row: FloatArray, floats: FloatArray) -> list[int]:
    candidates = np.flatnonzero(floats[:, 0] == row[0])
    return [int(i) for i in candidates if np.array_equal(floats[i], row)]


def _check_complete(found: list[Place], units: Mapping[str, Unit]) -> None:
    for name, unit in units.items():
        held = np.zeros(unit.packed.rows, dtype=bool)
        for place in found:
            if place.unit is unit:
                held[place.rows] = True
        if not held.all():
            raise ExportError(
                f"{one_line(name)} is planned at {unit.packed.format.bits} bits, but it is no "
                "matrix of products or lookups in the graph of onnxruntime-genai's model builder; "
                f"keep it at 32 bits (--pin {one_line(name)}=32)"
            )
