"""ModelGraph: what a traced forward pass says about a model, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mixq.graph.units import WeightUnit

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class ModelGraph:
    """The operations of one forward pass and the weight units that they read.

    Attributes:
        digraph: one node per operation in execution order, with the attributes `work` (Work),
            `units` (names of the units that it reads), `op` (what torch calls it),
            `module` (path of the module that ran it) and `shape` (of its output); an edge for
            every activation that flows from one to the other.
        units: the weight units by name, in the order of the model's parameters.
        parameters: number of parameters, shared ones counted once.
        original_bytes: bytes of all parameters and persistent buffers in 32-bit floats
            (integers at their own size), shared storage counted once.
        other_bytes: bytes stored for everything that is not a unit.
        peak_activation_bytes: largest sum of live activations along the execution order.
        batch_size: samples in the traced batch.
        source: `dispatch` (every operation was seen) or `hooks` (only modules were).
        lost: what the trace could not see, one sentence each; empty when nothing was lost.
    """

    digraph: nx.DiGraph[str]
    units: dict[str, WeightUnit]
    parameters: int
    original_bytes: int
    other_bytes: int
    peak_activation_bytes: int
    batch_size: int
    source: str
    lost: tuple[str, ...] = field(default=())

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of the whole forward pass."""
        return sum(data["work"].macs for _, data in self.digraph.nodes(data=True))
