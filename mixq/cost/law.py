"""The time of one kernel call: what it computes, unpacks and moves, on a machine.

    time = overhead + ((compute + unpack)^p + memory^p)^(1/p)

The terms are those of a roofline with what real kernels add to it: whole tiles in whole waves over
the units, weights that are unpacked again for every block of rows, and a bandwidth that few output
columns cannot fill. Every term grows with m, n and k and shrinks with the machine's rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from mixq.cost import roofline
from mixq.cost.machine import Machine
from mixq.cost.tiles import counted_macs
from mixq.graph.work import Work
from mixq.profiles import Kernel

LOOKUP_BITS: Final = 4.0
"""A table of 16 sums is looked up with one bit each of four weights: T-MAC, EuroSys 2025."""
WINOGRAD_SAVING: Final = 2.25
"""Multiplications of a 3x3 window over those of F(2x2, 3x3): Lavin and Gray, CVPR 2016."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a call asks of the machine beside its arithmetic.

    Attributes:
        weight_bytes: of the weights that it reads, with their scales.
        weights: how many they are, for unpacking.
        activation_bytes: read and written.
        working_set_bytes: what passes through the caches between two reads of the same weights;
            None says that they come from memory.
        weights_per_scale: weights that share one scale; 0 is one scale for each output.
    """

    weight_bytes: float
    weights: int
    activation_bytes: float
    working_set_bytes: float | None = None
    weights_per_scale: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """The terms of one call, in seconds."""

    compute_s: float
    unpack_s: float
    memory_s: float
    overhead_s: float
    sharpness: float

    @property
    def latency_s(self) -> float:
        """The terms put together."""
        busy = self.compute_s + self.unpack_s
        return self.overhead_s + roofline.soft_maximum(busy, self.memory_s, self.sharpness)

    @property
    def bound(self) -> str:
        """The largest term: `compute`, `unpack`, `memory` or `launch`."""
        return roofline.bound(
            compute_s=self.compute_s,
            unpack_s=self.unpack_s,
            memory_s=self.memory_s,
            overhead_s=self.overhead_s,
        )


def parts(machine: Machine, kernel: Kernel, work: Work, load: Load) -> Parts:
    """The terms of one call of `kernel` for `work`."""
    return Parts(
        compute_s=_compute_s(machine, kernel, work, load),
        unpack_s=_unpack_s(machine, kernel, work, load),
        memory_s=_memory_s(machine, kernel, work, load),
        overhead_s=kernel.overhead_s,
        sharpness=kernel.sharpness,
    )


def _compute_s(machine: Machine, kernel: Kernel, work: Work, load: Load) -> float:
    rate = machine.ops_per_s(kernel.compute) * kernel.compute_efficiency
    rate *= float(machine.threads ** (kernel.scaling - 1)) / _scaling(kernel, load)
    outputs = work.m * work.n * work.groups * work.repeats if work.macs else 0
    finish_s = kernel.finish_s_per_output * outputs / machine.threads
    saving = 1.0
    if kernel.lookup:
        saving *= LOOKUP_BITS / kernel.bits
    if kernel.winograd and work.window == (3, 3) and work.stride == (1, 1):
        saving *= WINOGRAD_SAVING
    return roofline.compute_s(counted_macs(kernel, work, machine.units), rate) / saving + finish_s


def _unpack_s(machine: Machine, kernel: Kernel, work: Work, load: Load) -> float:
    blocks = math.ceil(work.m / kernel.unpack_rows) if kernel.unpack_rows else 1
    threads = float(machine.threads**kernel.scaling)
    per_weight_s = kernel.unpack_s_per_weight * _scaling(kernel, load)
    return per_weight_s * load.weights * work.repeats * blocks / threads


def _scaling(kernel: Kernel, load: Load) -> float:
    """How much longer arithmetic takes because of the scales."""
    if not load.weights_per_scale:
        return 1.0
    return 1 + kernel.scale_weights / load.weights_per_scale


def _memory_s(machine: Machine, kernel: Kernel, work: Work, load: Load) -> float:
    # The rest of the network has passed through the cache since the last forward pass, so weights
    # come from memory; the activations were written a moment ago, as were a recurrent operation's
    # weights from its second step on.
    fresh = (
        machine.memory_bytes_per_s
        if load.working_set_bytes is None
        else _looping_bytes_per_s(machine, load.working_set_bytes)
    )
    filled = 1.0
    if kernel.full_columns:
        filled = min(1.0, work.n * work.groups / kernel.full_columns) ** kernel.fill
    again_bytes = (work.repeats - 1) * load.weight_bytes
    return (
        load.weight_bytes / (fresh * filled)
        + again_bytes / machine.bytes_per_s_holding(load.weight_bytes)
        + load.activation_bytes / _looping_bytes_per_s(machine, load.activation_bytes)
    ) / kernel.memory_efficiency


def _looping_bytes_per_s(machine: Machine, held_bytes: float) -> float:
    """Bandwidth of a loop over so many bytes: what exceeds a level comes from the next.

    Measured so (loops over 17 to 121 MB of packed weights with ONNX Runtime's MLAS on one Xeon,
    github.com/microsoft/onnxruntime/pull/24491): 490, 108 and 45 GB/s, as 33 MB of cache in front
    of 34 GB/s give. Caches that replace the oldest line first would keep nothing.
    """
    taken_s, inner = 0.0, 0.0
    for level in machine.profile.caches:
        size = level.size_bytes * (machine.threads if level.private else 1)
        rate = max(level.core_bytes_per_s * machine.threads, machine.memory_bytes_per_s)
        taken_s += max(0.0, min(held_bytes, size) - inner) / rate
        inner = max(inner, size)
    taken_s += max(0.0, held_bytes - inner) / machine.memory_bytes_per_s
    return held_bytes / taken_s if taken_s else machine.bytes_per_s_holding(held_bytes)
