"""Workload: the operations of one forward pass of a network, with the weights that each reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from mixq.graph.work import OpKind, Work

Role = Literal["body", "head", "fused", "norm", "plain"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of operation and how often a pass runs it.

    Attributes:
        kind, m, n, k, groups, repeats, window, stride: as those of `Work`.
        count: how many such operations the pass has.
        read, written: activations, in numbers and not bytes, of one of them.
        weights: numbers that one of them reads beside the activations.
        role: `head` is the last projection (to the vocabulary), which many runtimes leave wider;
            `fused` is elementwise work that inference runtimes do inside the operation before it;
            `norm` is what stays in floats where the rest is rounded (norms, softmax, picking
            boxes);
            `plain` is any other work without weights; all else is `body`.
    """

    kind: OpKind
    m: int = 1
    n: int = 1
    k: int = 1
    groups: int = 1
    repeats: int = 1
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    count: int = 1
    read: float = 0
    written: float = 0
    weights: int = 0
    role: Role = "body"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all of them."""
        return self.count * self.work(4).macs

    def work(self, element_bytes: float) -> Work:
        """One of them with activations of that many bytes."""
        return Work(
            self.kind,
            m=self.m,
            n=self.n,
            k=self.k,
            groups=self.groups,
            repeats=self.repeats,
            input_bytes=math.ceil(self.read * element_bytes),
            output_bytes=math.ceil(self.written * element_bytes),
            window=self.window,
            stride=self.stride,
        )

    def of_batch(self, batch: int) -> Operation:
        """The same for `batch` samples: more rows, or more products of activations alone."""
        if batch == 1:
            return self
        wide = self.kind == "attention"
        return replace(
            self,
            m=self.m if wide or self.kind == "elementwise" else self.m * batch,
            groups=self.groups * batch if wide else self.groups,
            read=self.read * batch,
            written=self.written * batch,
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """One forward pass.

    Attributes:
        name: canonical name of the network.
        parameters: of the whole network.
        operations: of the pass.
        note: what was assumed where the published table does not say, in words.
    """

    name: str
    parameters: int
    operations: tuple[Operation, ...]
    note: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the pass."""
        return sum(operation.macs for operation in self.operations)

    @property
    def weights(self) -> int:
        """Weights that the pass multiplies by; a table that is looked up counts what is read."""
        return sum(operation.weights * operation.count for operation in self.operations)
