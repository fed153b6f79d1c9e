"""Graph: a small ONNX graph while it is written, with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from mixq.errors import MissingExtraError

MICROSOFT: Final = "com.microsoft"
OPSET: Final = 25
"""The first with 2-bit integers."""
IR_VERSION: Final = 13
FLOAT: Final = 1
_INT64: Final = 7  # both of onnx.TensorProto.DataType
_PACKED: Final = {8: 2, 4: 21, 2: 25}  # UINT8, UINT4, UINT2
Shape = Sequence[int | str]


class Graph:
    """One small graph while it is written.

    Args:
        seed: of the random weights.

    Raises:
        MissingExtraError: without onnx.
    """

    def __init__(self, seed: int = 0) -> None:
        try:
            from onnx import helper, numpy_helper
        except ImportError as error:
            raise MissingExtraError("onnx", "onnx", "calibrating ONNX Runtime") from error
        self._helper: Any = helper
        self._numpy: Any = numpy_helper
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self.random = np.random.default_rng(seed)

    def input(self, shape: Shape, *, whole: bool = False) -> str:
        """A further input of float32, or of int64 if `whole`; its name."""
        name = f"x{len(self._inputs)}"
        kind = _INT64 if whole else FLOAT
        self._inputs.append(self._helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        """An initializer; its name."""
        name = f"c{len(self._constants)}"
        self._constants.append(self._numpy.from_array(array, name))
        return name

    def floats(self, *shape: int) -> str:
        """An initializer of small random numbers."""
        return self.constant((0.02 * self.random.standard_normal(shape)).astype(np.float32))

    def codes(self, bits: int, rows: int, columns: int) -> str:
        """An initializer of random unsigned integers of `bits` bits."""
        name = f"c{len(self._constants)}"
        size = rows * columns * bits // 8
        raw = self.random.integers(0, 256, size, dtype=np.uint8).tobytes()
        self._constants.append(
            self._helper.make_tensor(name, _PACKED[bits], [rows, columns], raw, raw=True)
        )
        return name

    def packed(self, *shape: int) -> str:
        """An initializer of random bytes."""
        return self.constant(self.random.integers(0, 256, shape, dtype=np.uint8))

    def scales(self, *shape: int) -> str:
        """An initializer of small equal scales."""
        return self.constant(np.full(shape, 0.01, np.float32))

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> Any:
        """A node; the name of its output, or names if it has several."""
        names = [f"n{len(self._nodes)}_{index}" for index in range(outputs)]
        self._nodes.append(
            self._helper.make_node(kind, list(inputs), names, domain=domain, **(attributes or {}))
        )
        return names[0] if outputs == 1 else names

    def first_number(self, name: str, axes: int) -> str:
        """The first element alone, so that a large result is made and not handed out."""
        ends = [self.constant(np.full(axes, value, np.int64)) for value in (0, 1)]
        found: str = self.op("Slice", [name, *ends])
        return found

    def file(self, output: str) -> bytes:
        """The finished graph with one float32 output, serialized."""
        value = self._helper.make_empty_tensor_value_info(output)
        value.type.tensor_type.elem_type = FLOAT
        graph = self._helper.make_graph(
            self._nodes, "calibration", self._inputs, [value], initializer=self._constants
        )
        opsets = [self._helper.make_opsetid("", OPSET), self._helper.make_opsetid(MICROSOFT, 1)]
        model = self._helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        found: bytes = model.SerializeToString()
        return found
