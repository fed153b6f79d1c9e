"""Places: which rows of which unit each weight of the builder's graph holds.

Weights are found by value. The builder names them its own way, architecture by architecture, cuts
fused matrices (Phi-3's `qkv_proj`) into rows, and transposes them; but it computes nothing, so a
weight that it wrote equals the floats of its unit bit by bit. What equals no unit stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        value: the initializer: (columns, rows) where it is multiplied by, else (rows, columns).
        products: MatMul nodes that multiply by it.
        lookups: Gather nodes that read its rows.
    """

    unit: Unit
    rows: slice
    value: ir.Value
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
    matrices = floats(source)
    found: list[Place] = []
    for value in graph.initializers.values():
        uses = _uses(value)
        if uses.others or len(uses.transposed) != 1 or value.const_value is None:
            continue
        array = value.const_value.numpy()
        matrix = np.ascontiguousarray(array.T if uses.transposed.pop() else array)
        where = _match(matrix, matrices, found)
        if where is not None:
            name, start = where
            rows = slice(start, start + len(matrix))
            products, lookups = tuple(uses.products), tuple(uses.lookups)
            found.append(Place(source.units[name], rows, value, products, lookups))
    _check_complete(found, source.units)
    return found


def floats(source: Source) -> dict[str, FloatArray]:
    """The weights that each unit's codes stand for, float32 (rows, columns)."""
    state = source.restored.state_dict()
    return {
        name: state[unit.names[0]].float().reshape(unit.packed.rows, -1).numpy()
        for name, unit in source.units.items()
    }


def _uses(value: ir.Value) -> _Uses:
    """How the graph reads an initializer."""
    uses = _Uses()
    if value.shape is None or len(value.shape) != 2:
        return _Uses(others=list(value.consumers()))
    for node, index in value.uses():
        if node.op_type == "MatMul" and index == 1:
            uses.products.append(node)
            uses.transposed.add(True)
        elif _is_lookup(node, index):
            uses.lookups.append(node)
            uses.transposed.add(False)
        elif node.op_type == "Transpose" and all(
            _is_lookup(*use) for use in node.outputs[0].uses()
        ):  # how the builder reads the rows of a tied head
            uses.lookups.extend(node.outputs[0].consumers())
            uses.transposed.add(True)
        else:
            uses.others.append(node)
    return uses


def _is_lookup(node: ir.Node, index: int) -> bool:
    axis: Any = node.attributes.get_int("axis", 0)
    return node.op_type == "Gather" and index == 0 and axis == 0


def _match(
    matrix: FloatArray, units: Mapping[str, FloatArray], found: list[Place]
) -> tuple[str, int] | None:
    """(unit, first row) of the rows that equal `matrix`; of several the first still free."""
    taken = {(place.unit.name, place.rows.start) for place in found}
    equal = [
        (name, start)
        for name, own in units.items()
        if own.shape[1] == matrix.shape[1]
        for start in _starts(matrix[0], own[: max(0, len(own) - len(matrix) + 1)])
        if np.array_equal(own[start : start + len(matrix)], matrix)
    ]
    return next((item for item in equal if item not in taken), equal[0] if equal else None)


def _starts(row: FloatArray, own: FloatArray) -> list[int]:
    """Rows that equal `row`; most differ in their first number."""
    candidates = np.flatnonzero(own[:, 0] == row[0])
    return [int(index) for index in candidates if np.array_equal(own[index], row)]


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
