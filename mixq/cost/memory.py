"""Memory: what a process needs to load a plan's file and to run it, beside its own code.

Where weights and activations go is a runtime's own business, so each has a rule. ONNX Runtime's
was found in its sources, its logs, and stacks of equal layers (`benchmarks/memory.py --stacks`):

- a file is parsed, its tensors are copied, transposed and folded, and every kernel packs its
  weights once more and drops the original. The C library keeps most of what was dropped, so that
  loading sets the peak of float models at small batches;
- activations come from an arena that keeps what it has (`mixq.cost.arena`). From the second pass
  on they lie in one block, beside what the first pass took: working memory counts about twice;
- DequantizeLinear nodes read no activations and stand behind them in the order of nodes, so that
  they run first: the float copies of all dequantized units live at once, in both passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mixq.cost.arena import Buffer, live_peak, replayed
from mixq.cost.schedule import Schedule, schedule
from mixq.formats import Format
from mixq.graph.model_graph import ModelGraph
from mixq.graph.units import WeightUnit

CONTIGUOUS: Final = 0.65
"""Share of the memory that loading has left free in which a region of the arena finds place."""

Region = tuple[int, int]
"""Bytes that an arena asked for at once, and those of them that it wrote."""


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of one unit's weights.

    Attributes:
        loaded_bytes: taken at the most while the file is loaded, and not given back.
        used_bytes: in use afterwards.
    """

    loaded_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Rule:
    """How a runtime holds weights.

    Attributes:
        loaded, used: bytes per weight by (kind of operation, bits); what is not listed is held
            as it is stored.
        node_bytes: of every operation of the graph, whatever it reads.
        file_node_bytes, file_unit_bytes: what the file takes to describe an operation, and what a
            quantized unit's further operations and tensors.
        unpacked_passes: how often the float copy of a dequantized unit is resident.
        keeps_arena: whether working memory comes from a BFC arena that is replayed.
    """

    loaded: Mapping[tuple[str, int], float]
    used: Mapping[tuple[str, int], float]
    node_bytes: int
    file_node_bytes: int
    file_unit_bytes: int
    unpacked_passes: int
    keeps_arena: bool


PLAIN: Final = Rule(
    loaded={}, used={}, node_bytes=0, file_node_bytes=0, file_unit_bytes=0, unpacked_passes=1,
    keeps_arena=False,
)  # fmt: skip
"""A runtime of which nothing is known: weights once, and the activations that live together."""

ONNX_RUNTIME: Final = Rule(
    loaded={
        ("gemm", 32): 6.9, ("gemm", 16): 6.7, ("gemm", 8): 2.7, ("gemm", 4): 1.45,
        ("gemm", 2): 0.85, ("conv", 32): 14.0, ("conv", 16): 14.6, ("recurrent", 32): 20.4,
        ("recurrent", 16): 23.1, ("gather", 32): 5.2, ("gather", 16): 2.6, ("gather", 8): 1.25,
        ("gather", 4): 0.63, ("gather", 2): 0.38,
    },
    used={
        ("gemm", 32): 4.0, ("gemm", 16): 4.0, ("gemm", 8): 1.2, ("gemm", 4): 0.75,
        ("gemm", 2): 0.47, ("conv", 16): 4.0, ("recurrent", 16): 4.0,
    },
    node_bytes=25_000,
    file_node_bytes=200,
    file_unit_bytes=750,
    unpacked_passes=2,
    keeps_arena=True,
)  # fmt: skip
"""ONNX Runtime 1.31 on Linux with glibc: medians over stacks of 2 to 40 equal layers (linear 512,
1024, 3072; convolution 128 and 512 with normalisation; three tables; an LSTM)."""

RULES: Final = {"onnxruntime": ONNX_RUNTIME}


def rule_of(runtime: str) -> Rule:
    """The rule of a runtime, by its name."""
    return RULES.get(runtime, PLAIN)


def held(rule: Rule, unit: WeightUnit, fmt: Format) -> Held:
    """Memory of one unit in a format; a unit with several kinds of readers is held for each."""
    stored = unit.stored_bytes(fmt)
    kinds = [kind for kind in dict.fromkeys(work.kind for work in unit.work)]
    bits = 8 * unit.element_bytes if fmt.bits == 32 else fmt.bits
    loaded = [_bytes(rule.loaded, kind, bits, unit.weights, stored) for kind in kinds] or [stored]
    used = [_bytes(rule.used, kind, bits, unit.weights, stored) for kind in kinds] or [stored]
    in_use = max(sum(used), stored)
    return Held(loaded_bytes=max(sum(loaded), in_use), used_bytes=in_use)


def _bytes(
    table: Mapping[tuple[str, int], float], kind: str, bits: int, weights: int, stored: int
) -> int:
    per_weight = table.get((kind, bits))
    return stored if per_weight is None else round(per_weight * weights)


@dataclass(frozen=True, slots=True)
class Working:
    """Memory of a pass beside the weights, by regions.

    Attributes:
        folded: with float weights, into which normalisations are folded.
        apart: where all units are dequantized, so that normalisations stand apart; without the
            float copies themselves.
        sections: units with the same number are dequantized together; others at other times.
    """

    folded: tuple[Region, ...]
    apart: tuple[Region, ...]
    sections: Mapping[str, int]


def working(rule: Rule, graph: ModelGraph) -> Working:
    """The working memory of a traced pass."""
    if not rule.keeps_arena:
        peak = graph.peak_activation_bytes
        return Working(((peak, peak),), ((peak, peak),), {})
    folded, apart = schedule(graph), schedule(graph, frozenset(graph.units))
    return Working(_regions(folded), _regions(apart), folded.sections)


def _regions(planned: Schedule) -> tuple[Region, ...]:
    return tuple(replayed(planned.buffers, planned.outputs).regions)


def peak_bytes(
    *,
    runtime_bytes: int,
    loaded_bytes: int,
    used_bytes: int,
    unpacked_bytes: int,
    regions: Sequence[Region],
) -> int:
    """The most that is resident at any time.

    Args:
        runtime_bytes: of the runtime, whatever the model is.
        loaded_bytes: of all weights while they are loaded; kept by the process.
        used_bytes: of all weights afterwards; the rest is free for regions that fit.
        unpacked_bytes: float copies of dequantized units, as often as they are resident.
        regions: of the working memory.
    """
    free = CONTIGUOUS * (loaded_bytes - used_bytes)
    more = 0
    for size, written in sorted(regions, reverse=True):
        if size <= free:
            free -= size
        else:
            more += written
    return runtime_bytes + loaded_bytes + unpacked_bytes + more


def live_bytes(graph: ModelGraph, copies: Mapping[str, int] | None = None) -> int:
    """The largest sum of live activations of a schedule, with float copies by unit beside them.

    A copy lives from the start of the pass to the operation that reads it.
    """
    planned = schedule(graph, frozenset(copies or ()))
    held_copies = [
        Buffer(size, 0, planned.consumers[unit])
        for unit, size in (copies or {}).items()
        if unit in planned.consumers
    ]
    return live_peak([*held_copies, *planned.buffers, *planned.outputs])


def cache_bytes(
    *, layers: int, heads: int, head_size: int, tokens: int, batch_size: int = 1,
    element_bytes: int = 4,
) -> int:  # fmt: skip
    """Keys and values of a causal language model's past tokens.

    Args:
        layers: attention layers.
        heads: heads of keys and values; fewer than those of queries where these share them.
        head_size: numbers of one head and token.
        tokens: cached ones of each sequence.
        batch_size: sequences.
        element_bytes: of one number: 4 in ONNX Runtime's float graphs, 2 in llama.cpp.
    """
    return 2 * layers * heads * head_size * tokens * batch_size * element_bytes
