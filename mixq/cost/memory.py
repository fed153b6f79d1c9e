"""Memory: what a process needs to load a plan's file and to run it, beside its own code.

Where weights and activations go is a runtime's own business, so each has a rule. ONNX Runtime's
was found in its sources, its logs, and stacks of equal layers (`benchmarks/memory.py --stacks`):

- a file is parsed, its tensors are copied, transposed and folded, and every kernel packs its
  weights once more and drops the original. The C library keeps what was dropped, in pieces into
  which the arena's regions rarely fit, so that it counts to the end;
- activations come from an arena that keeps what it has (`mixq.cost.arena`). From the second pass
  on they lie in one block, beside what the first pass took: working memory counts about twice;
- a unit without kernel is dequantized right before its operation, since `mixq.export.onnx` puts
  such nodes first in the file; its float copy is part of the working memory of both passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mixq.cost.arena import replayed
from mixq.cost.machine import Machine
from mixq.cost.schedule import Schedule, schedule
from mixq.formats import Format
from mixq.graph.model_graph import ModelGraph
from mixq.graph.units import WeightUnit


@dataclass(frozen=True, slots=True)
class Rule:
    """How a runtime holds weights.

    Attributes:
        loaded: bytes per weight by (kind of operation, bits) that loading takes at the most, all
            of which the process keeps; what is not listed is held as it is stored.
        node_bytes: of every operation of the graph, whatever it reads.
        file_node_bytes, file_unit_bytes: what the file takes to describe an operation, and what a
            quantized unit's further operations and tensors.
        keeps_arena: whether working memory comes from a BFC arena that is replayed.
    """

    loaded: Mapping[tuple[str, int], float]
    node_bytes: int
    file_node_bytes: int
    file_unit_bytes: int
    keeps_arena: bool


PLAIN: Final = Rule(
    loaded={}, node_bytes=0, file_node_bytes=0, file_unit_bytes=0,
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
    node_bytes=25_000,
    file_node_bytes=200,
    file_unit_bytes=750,
    keeps_arena=True,
)  # fmt: skip
"""ONNX Runtime 1.31 on Linux with glibc: medians over stacks of 2 to 40 equal layers (linear 512,
1024, 3072; convolution 128 and 512 with normalisation; three tables; an LSTM)."""

RULES: Final = {"onnxruntime": ONNX_RUNTIME}


def rule_of(machine: Machine) -> Rule:
    """The rule of a runtime on a CPU; on a GPU nobody has looked."""
    on_gpu = machine.profile.units_per_core > 1
    return PLAIN if on_gpu else RULES.get(machine.runtime.name, PLAIN)


def loaded_bytes(rule: Rule, unit: WeightUnit, fmt: Format) -> int:
    """Memory of one unit's weights; a unit that several kinds of operations read is held for each.

    Never less than what is stored.
    """
    stored = unit.stored_bytes(fmt)
    bits = 8 * unit.element_bytes if fmt.bits == 32 else fmt.bits
    kinds = dict.fromkeys(work.kind for work in unit.work)
    held = 0
    for kind in kinds:
        per_weight = rule.loaded.get((kind, bits))
        held += stored if per_weight is None else round(per_weight * unit.weights)
    return max(held, stored)


@dataclass(frozen=True, slots=True)
class Working:
    """Memory of a pass beside the weights.

    Attributes:
        folded_bytes: with float weights, into which normalisations are folded.
        apart_bytes: where all units are dequantized that may be, with their float copies;
            normalisations then stand apart.
    """

    folded_bytes: int
    apart_bytes: int


def working(rule: Rule, graph: ModelGraph, copies: Mapping[str, int]) -> Working:
    """The working memory of a traced pass.

    Args:
        rule: of the runtime.
        graph: the pass.
        copies: bytes of the float copy by unit, for those that have a format without kernel.
    """
    if not rule.keeps_arena:
        peak = graph.peak_activation_bytes
        return Working(peak, peak + max(copies.values(), default=0))
    folded, apart = schedule(graph), schedule(graph, copies)
    return Working(_resident_bytes(folded), _resident_bytes(apart))


def _resident_bytes(planned: Schedule) -> int:
    return replayed(planned.buffers, planned.outputs).resident_bytes


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
