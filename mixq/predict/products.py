"""What one product of matrices takes: the row's kernel found in a profile, and its law applied."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from mixq.cost.fit import Point
from mixq.cost.law import Load, Parts, parts
from mixq.cost.machine import Machine
from mixq.errors import UsageError
from mixq.graph.work import Work
from mixq.predict.match import Match, nearest_kernels
from mixq.predict.prediction import Z80, Prediction
from mixq.predict.row import RATIO, Row
from mixq.predict.threads import shared, threads_of
from mixq.profiles import Profile, Runtime

SCALE_BITS: Final = 16
"""Of the scale of a group; whole widths are those of the codes alone, 4.5 holds its scales."""
LEAST_OUTPUT_BITS: Final = 16
"""Outputs of 8-bit products leave as 16-bit or wider numbers in every runtime published."""
BARE_SIZE: Final = 1024
"""Rows and columns of a product whose table gives a rate and no shape: large enough that nothing
but the arithmetic counts."""
BASELINE: Final = "cuBLAS fp16"
"""What published speed-ups of products divide by, where the row's metric says fp16."""


@dataclass(frozen=True, slots=True)
class Product:
    """A row as the law sees it."""

    machine: Machine
    work: Work
    load: Load

    def point(self, measured_s: float, weight: float = 1.0) -> Point:
        """The row as a point to fit."""
        return Point(self.machine, self.work, self.load, measured_s, weight)


def predict_product(profile: Profile, row: Row) -> Prediction:
    """What `row` would measure on the chip of `profile`.

    A speed-up divides the time of the chip's fp16 product by that of the row's kernel.

    Raises:
        UsageError: if the row is no product, its kernel is unknown or refuses the shape, or its
            threads make no sense; one line.
    """
    match = find_kernel(profile, row)
    call, spread = _call(profile, match, row), match.spread
    seconds, points = call.latency_s, match.kernel.points
    notes = [f"{call.bound}-bound", f"{points} points" if points else "", match.note]
    threads = threads_of(row.cores_or_threads, profile)
    if match.widening or match.kernel.origin != profile.name:
        # A kernel that was fitted to the same chip's rows was so with the same threads assumed.
        spread = math.hypot(spread, threads.spread)
        notes.append(threads.note)
    if row.unit != RATIO:
        note = "; ".join(filter(None, notes))
        return Prediction.of(row, seconds, spread, kernel=match.name, note=note)
    whole = baseline_row(row)
    base = find_kernel(profile, whole)
    ratio = _call(profile, base, whole).latency_s / seconds
    notes.append(f"against {base.name}")
    factor = math.exp(Z80 * spread)
    note = "; ".join(filter(None, notes))
    return Prediction(ratio, ratio / factor, ratio * factor, match.name, note)


def find_kernel(profile: Profile, row: Row) -> Match:
    """The kernel that a row speaks of: of those nearest to it the fastest.

    Raises:
        UsageError: as `predict_product`.
    """
    return min(
        nearest_kernels(profile, row),
        key=lambda match: (
            _call(profile, match, row).latency_s,
            match.runtime.name,
            match.kernel.name,
        ),
    )


def product_of(profile: Profile, runtime: Runtime, row: Row) -> Product:
    """The machine, work and traffic of a row that is a product.

    Benchmarks of one product call it again and again, so that a CPU finds as much of it in its
    caches as they hold; a GPU's published figures were those of memory. A product of one output
    column reads its activations as a GEMV reads weights.

    Raises:
        UsageError: if the row lacks M, N or K.
    """
    if row.m is None or row.n is None or row.k is None:
        raise UsageError(
            f"line {row.line}: {row.model_or_op[:40]!r} is no product; give M, N and K"
        )
    threads = threads_of(row.cores_or_threads, profile)
    machine = Machine(shared(profile, threads.instances), runtime, threads.count)
    activation_bits = row.activation_bits or SCALE_BITS
    m, n, weight_bits = row.m, row.n, row.weight_bits
    if n == 1 < m:
        m, n, weight_bits, activation_bits = n, m, activation_bits, weight_bits
    stored_bits = weight_bits
    if row.group_size and weight_bits < SCALE_BITS and float(weight_bits).is_integer():
        stored_bits += SCALE_BITS / row.group_size
    weight_bytes = n * row.k * stored_bits / 8
    output_bits = max(activation_bits, LEAST_OUTPUT_BITS)
    activation_bytes = (m * row.k * activation_bits + m * n * output_bits) / 8
    gpu = profile.units_per_core > 1
    warm = not gpu and "cold" not in row.kernel.lower().split()
    return Product(
        machine,
        Work("gemm", m=m, n=n, k=row.k),
        Load(
            weight_bytes=weight_bytes,
            weights=n * row.k,
            activation_bytes=activation_bytes,
            working_set_bytes=weight_bytes + activation_bytes if warm else None,
            weights_per_scale=row.group_size or 0,
        ),
    )


def baseline_row(row: Row) -> Row:
    """What a speed-up divides by: the same product in fp16 by the vendor's library."""
    return replace(
        row,
        kernel=BASELINE,
        runtime="PyTorch (Vidur/Sarathi profiler)",
        weight_bits=16.0,
        activation_bits=16.0,
        group_size=None,
        metric="latency",
        unit="s",
    )


def shaped(row: Row) -> Row:
    """The row; with a large shape if it gives the rate of some product without saying which."""
    counts_operations = row.unit.endswith("P/s")
    if row.is_product or not (counts_operations and "gemm" in row.model_or_op.lower()):
        return row
    return replace(row, m=BARE_SIZE, n=BARE_SIZE, k=BARE_SIZE)


def _call(profile: Profile, match: Match, row: Row) -> Parts:
    product = product_of(profile, match.runtime, row)
    return parts(product.machine, match.kernel, product.work, product.load)
