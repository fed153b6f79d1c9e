"""Schedule: the buffers of a forward pass as a runtime that fuses operations allocates them.

A value lives from the operation that writes it to the last one that reads it, which are its
node's successors in `ModelGraph.digraph`. What a trace of PyTorch and a session of ONNX Runtime
1.31 differ in, seen in sessions' own profiles of MiniLM, EfficientNet-Lite0 and CREPE:

- paddings are part of the convolution that reads them, activation functions that follow one too;
- so are normalisations, if the convolution's weights are constant floats; weights that are
  dequantized are no constants, so that the normalisation stays and writes a buffer of its own;
- element by element, an operation overwrites an input that nobody reads after it;
- shapes are computed in numbers of a few bytes where a graph has sequences, which take the arena's
  first region for themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from mixq.cost.arena import Buffer
from mixq.graph.model_graph import ModelGraph

INPUT: Final = ""
"""Owner of what the caller keeps: inputs, and paddings that are read with them."""
SHAPE_BYTES: Final = 8
FUSED_ACTIVATIONS: Final = frozenset(
    ("relu", "relu_", "hardtanh", "hardtanh_", "leaky_relu", "sigmoid", "tanh", "hardsigmoid")
)
NORMALISATIONS: Final = frozenset(
    ("native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm")
)
OVERWRITING: Final = frozenset(
    (
        *(
            "add",
            "add_",
            "sub",
            "sub_",
            "mul",
            "mul_",
            "div",
            "div_",
            "neg",
            "exp",
            "sqrt",
            "rsqrt",
        ),
        *("clamp", "hardswish", "hardswish_", "silu", "silu_"),
        *FUSED_ACTIVATIONS,
    )
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Buffers of one pass.

    Attributes:
        buffers: of everything between inputs and outputs; the inputs are the caller's.
        outputs: of what nobody reads, the network's results among them.
        steps: number of operations.
    """

    buffers: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    steps: int


def schedule(graph: ModelGraph, copies: Mapping[str, int] | None = None) -> Schedule:
    """The buffers of a traced pass.

    Args:
        graph: of the pass.
        copies: bytes of the float copy of every unit that is dequantized on every pass, right
            before each operation that reads it.
    """
    own = dict(copies or {})
    made: list[Buffer] = []
    digraph = graph.digraph
    step_of = {node: step for step, node in enumerate(digraph)}
    last = {node: max(map(step_of.__getitem__, digraph.successors(node)), default=len(step_of))
            for node in digraph}  # fmt: skip
    owner: dict[str, str] = {}
    size: dict[str, int] = {INPUT: 0}
    end: dict[str, int] = {INPUT: 0}
    begin: dict[str, int] = {}
    for node, data in digraph.nodes(data=True):
        step = step_of[node]
        made += [Buffer(own[unit], step, step) for unit in data["units"] if unit in own]
        made_bytes = _value_bytes(data)
        source = _shared(digraph, node, owner, size, end, step, made_bytes, own.keys())
        if source is None:
            owner[node], size[node] = node, made_bytes
            begin[node], end[node] = step_of[node], last[node]
        else:
            owner[node] = source
            end[source] = max(end[source], last[node])
    steps = len(step_of)
    whole = [(n, Buffer(size[n], begin[n], min(end[n], steps))) for n in begin if size[n]]
    kinds = {data["work"].kind for _, data in digraph.nodes(data=True)}
    shapes = [Buffer(SHAPE_BYTES, 0, 0)] if kinds & {"gather", "attention"} else []
    return Schedule(
        buffers=(*shapes, *made, *(buffer for node, buffer in whole if end[node] < steps)),
        outputs=tuple(buffer for node, buffer in whole if end[node] >= steps),
        steps=steps,
    )


def _shared(
    digraph: Any,
    node: str,
    owner: dict[str, str],
    size: dict[str, int],
    end: dict[str, int],
    step: int,
    made_bytes: int,
    dequantized: AbstractSet[str],
) -> str | None:
    """The node whose buffer `node` writes into, or None if it has one of its own."""
    before = list(digraph.predecessors(node))
    name = operator(digraph.nodes[node])
    if name == "constant_pad_nd" and _all_convolutions(digraph, node):
        return owner[before[0]] if before else INPUT
    if name in NORMALISATIONS and len(before) == 1:
        is_constant = dequantized.isdisjoint(digraph.nodes[before[0]]["units"])
        if operator(digraph.nodes[before[0]]) == "convolution" and is_constant:
            return owner[before[0]]
    if name in OVERWRITING:
        dying = [
            owner[p] for p in before if end[owner[p]] <= step and size[owner[p]] == made_bytes
        ]
        return dying[0] if dying else None
    return None


def _value_bytes(data: Any) -> int:
    """Bytes of the first result: indices of maxima and statistics of norms are not computed."""
    made: int = data["work"].output_bytes
    shape = data.get("shape")
    return made if shape is None else min(made, 4 * math.prod(shape))


def _all_convolutions(digraph: Any, node: str) -> bool:
    readers = list(digraph.successors(node))
    return bool(readers) and all(operator(digraph.nodes[r]) == "convolution" for r in readers)


def operator(data: Any) -> str:
    """`relu` of `aten.relu.default`."""
    parts = str(data.get("op", "")).split(".")
    return parts[1] if len(parts) > 1 else parts[0]
