"""Graphs: small ONNX files that run one kernel as mixq's exporter writes it.

Each takes its activations as an input, so that the rows are chosen when it is run. Kernels whose
call is too short for a clock, or whose layout differs at the ends of a graph, stand several times
in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mixq.calibrate.graph import FLOAT, MICROSOFT, Graph


def chain(columns: int, times: int, step: Callable[[Graph, str], str]) -> bytes:
    """A graph that takes (m, columns) through one step several times, each with its own weights.

    So many weights are as far away as those of a whole network are, where one layer's would
    stay in the nearest cache.
    """
    graph = Graph()
    x = graph.input(["m", columns])
    for _ in range(times):
        x = step(graph, x)
    return graph.file(x)


def product(rows: int, columns: int) -> Callable[[Graph, str], str]:
    """X W with constant fp32 weights."""

    def step(graph: Graph, x: str) -> str:
        found: str = graph.op("MatMul", [x, graph.floats(columns, rows)])
        return found

    return step


def product_of_inputs(rows: int, columns: int) -> bytes:
    """X W^T with weights that are no constants, as behind a DequantizeLinear."""
    graph = Graph()
    x, weight = graph.input(["m", columns]), graph.input([rows, columns])
    turned = graph.op("Transpose", [weight], {"perm": [1, 0]})
    return graph.file(graph.op("MatMul", [x, turned]))


def packed_product(
    rows: int, columns: int, bits: int, block: int, accuracy_level: int
) -> Callable[[Graph, str], str]:
    """MatMulNBits with zero points, as `mixq.export.onnx.matmul` writes it."""
    blocks = -(-columns // block)
    attributes = {
        "K": columns, "N": rows, "bits": bits, "block_size": block,
        "accuracy_level": accuracy_level,
    }  # fmt: skip

    def step(graph: Graph, x: str) -> str:
        inputs = [
            x,
            graph.packed(rows, blocks, block * bits // 8),
            graph.scales(rows, blocks),
            graph.packed(rows, -(-blocks * bits // 8)),
        ]
        found: str = graph.op("MatMulNBits", inputs, attributes, domain=MICROSOFT)
        return found

    return step


def integer_product(rows: int, columns: int, *, is_static: bool) -> Callable[[Graph, str], str]:
    """Inputs rounded to 8 bits and int8 weights, as `mixq.export.onnx.integer` writes them."""

    def step(graph: Graph, x: str) -> str:
        codes = graph.random.integers(-127, 128, (columns, rows), dtype=np.int64)
        weight = graph.constant(codes.astype(np.int8))
        if is_static:
            scale = graph.constant(np.array(0.02, np.float32))
            zero = graph.constant(np.array(128, np.uint8))
            rounded = graph.op("QuantizeLinear", [x, scale, zero])
        else:
            rounded, scale, zero = graph.op("DynamicQuantizeLinear", [x], outputs=3)
        whole = graph.op("MatMulInteger", [rounded, weight, zero])
        floats = graph.op("Cast", [whole], {"to": FLOAT})
        factor = graph.op("Mul", [scale, graph.scales(rows)])
        found: str = graph.op("Mul", [floats, factor])
        return found

    return step


def batched_product(m: int, n: int, k: int) -> bytes:
    """Activations times activations, as in attention: (groups, m, k) x (groups, k, n)."""
    graph = Graph()
    left, right = graph.input(["g", m, k]), graph.input(["g", k, n])
    return graph.file(graph.op("MatMul", [left, right]))


def dequantized(rows: int, columns: int, bits: int, group: int) -> bytes:
    """DequantizeLinear alone."""
    graph = Graph()
    x = graph.input([1, 1])
    groups = -(-columns // group)
    inputs = [
        graph.codes(bits, rows, columns), graph.scales(rows, groups),
        graph.codes(bits, rows, groups),
    ]  # fmt: skip
    floats = graph.op("DequantizeLinear", inputs, {"axis": 1, "block_size": group})
    return graph.file(graph.op("Add", [graph.first_number(floats, 2), x]))


def convolutions(
    channels: int, window: tuple[int, int], *, groups: int = 1, times: int = 4
) -> bytes:
    """Equal convolutions and Relus in a row, whose constant weights take the blocked layout."""
    graph = Graph()
    x = graph.input(["b", channels, "h", "w"])
    for _ in range(times):
        weight = graph.floats(channels, channels // groups, *window)
        x = graph.op("Conv", [x, weight, graph.floats(channels)], _padded(window, groups))
        x = graph.op("Relu", [x])
    return graph.file(x)


def strided_convolution(
    inputs: int, outputs: int, window: tuple[int, int], stride: tuple[int, int], *, groups: int = 1
) -> bytes:
    """One convolution that shrinks, such as a stem."""
    graph = Graph()
    x = graph.input(["b", inputs, "h", "w"])
    weight = graph.floats(outputs, inputs // groups, *window)
    attributes = {**_padded(window, groups), "strides": list(stride)}
    x = graph.op("Conv", [x, weight, graph.floats(outputs)], attributes)
    return graph.file(graph.op("Relu", [x]))


def convolution_of_inputs(
    inputs: int, outputs: int, window: tuple[int, int], *, groups: int = 1, step: int = 1
) -> bytes:
    """A convolution whose weights are no constants, as behind a DequantizeLinear."""
    graph = Graph()
    x = graph.input(["b", inputs, "h", "w"])
    weight = graph.input([outputs, inputs // groups, *window])
    attributes = {**_padded(window, groups), "strides": [step, step]}
    return graph.file(graph.op("Conv", [x, weight, graph.floats(outputs)], attributes))


def gathered(rows: int, columns: int, bits: int, block: int = 64) -> bytes:
    """Rows of a table: Gather at 32 bits, else GatherBlockQuantized with zero points."""
    graph = Graph()
    indices = graph.input(["m"], whole=True)
    if bits == 32:
        return graph.file(graph.op("Gather", [graph.floats(rows, columns), indices]))
    blocks = -(-columns // block)
    inputs = [
        graph.packed(rows, columns * bits // 8), indices,
        graph.scales(rows, blocks), graph.packed(rows, -(-blocks * bits // 8)),
    ]  # fmt: skip
    attributes = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    return graph.file(graph.op("GatherBlockQuantized", inputs, attributes, domain=MICROSOFT))


def recurrent(hidden: int) -> bytes:
    """One LSTM layer whose input is as wide as its state."""
    graph = Graph()
    x = graph.input(["t", "b", hidden])
    weights = [graph.floats(1, 4 * hidden, hidden) for _ in range(2)]
    bias = graph.floats(1, 8 * hidden)
    states = graph.op("LSTM", [x, *weights, bias], {"hidden_size": hidden}, outputs=3)
    return graph.file(states[0])


def elementwise(kind: str, columns: int, times: int = 4) -> bytes:
    """One elementwise operator several times in a row on (m, columns)."""
    graph = Graph()
    x = graph.input(["m", columns])
    if kind == "Transpose":  # of two axes within others; equal ones in a row would cancel
        cut = graph.op("Reshape", [x, graph.constant(np.array([4, -1, columns // 32, 32]))])
        turned = graph.op("Transpose", [cut], {"perm": [0, 2, 1, 3]})
        return graph.file(turned)
    other = graph.input(["m", columns]) if kind == "Add" else ""
    vectors = [graph.floats(columns) for _ in range(2)]
    for _ in range(times):
        match kind:
            case "Add":
                x = graph.op("Add", [x, other])
            case "LayerNormalization":
                x = graph.op("LayerNormalization", [x, *vectors], {"axis": -1})
            case "BiasGelu":
                x = graph.op("BiasGelu", [x, vectors[0]], domain=MICROSOFT)
            case "Gelu":
                x = graph.op("Gelu", [x], domain=MICROSOFT)
            case _:
                x = graph.op(kind, [x])
    return graph.file(x)


def empty() -> bytes:
    """Next to nothing: what a call takes beside its kernels."""
    graph = Graph()
    return graph.file(graph.op("Neg", [graph.input([1])]))


def _padded(window: tuple[int, int], groups: int) -> dict[str, Any]:
    """Attributes of a convolution that keeps height and width."""
    before = [(size - 1) // 2 for size in window]
    after = [size - 1 - ahead for size, ahead in zip(window, before, strict=True)]
    return {"kernel_shape": list(window), "pads": [*before, *after], "group": groups}
