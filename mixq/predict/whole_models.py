"""What a whole model takes: its operations' terms under the efficiencies of its runtime."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from mixq.predict import products
from mixq.predict.efficiency import expected_efficiency, group_of
from mixq.predict.fitted import Fitted, Known, fitted
from mixq.predict.prediction import Z80, Prediction
from mixq.predict.products import predict_product
from mixq.predict.row import RATIO, Row
from mixq.predict.terms import Terms, terms_of
from mixq.predict.threads import threads_of
from mixq.profiles import Profile

KNOWN_MODEL: Final = 0.9
"""What is left of the spread where the model itself was measured elsewhere: left out on one chip
alone, models had a median error of 14.5%, and 16.0% left out everywhere."""
CHIP_DEPTH: Final = 3
"""Circles from which on the chip itself was measured."""
UNNAMED_SPREAD: Final = 0.6
"""Added to the spread where the table does not name the model."""
RATIO_SPREAD: Final = 0.7
"""Share of the spread that a ratio keeps, since what both sides have in common cancels."""


def predict_model(profile: Profile, row: Row, *, known: Fitted | None = None) -> Prediction:
    """What `row`, a whole model, would measure on the chip of `profile`.

    Args:
        profile: the chip.
        row: no product.
        known: what was measured elsewhere; by default what comes with the project.

    Raises:
        UsageError: if the model is unknown, does not fit the memory or cannot do what the metric
            counts; one line.
    """
    measured = fitted() if known is None else known
    terms, found = model_seconds(profile, row, measured)
    if row.unit == RATIO and terms.job.phase == "linear":
        return _layers_ratio(profile, row, terms)
    seconds = terms.seconds(found.efficiency) * math.exp(found.offset)
    ran = threads_of(row.cores_or_threads, profile)
    spread = found.spread * (KNOWN_MODEL if found.offset else 1.0)
    if found.depth < CHIP_DEPTH:  # else the numbers were fitted to as many threads
        spread = math.hypot(spread, ran.spread)
    if "does not name" in terms.job.note:
        spread = math.hypot(spread, UNNAMED_SPREAD)
    group = group_of(row, terms.job.phase, profile.name, gpu=terms.gpu)
    kernel = f"{row.runtime or 'unknown runtime'}: {row.kernel or 'unknown kernel'}"
    seen = (
        "nothing alike was measured",
        "other runtimes",
        "other chips",
        "other kernels on this chip",
        "this kernel",
    )
    notes = [f"{terms.job.network} ({terms.job.phase})", terms.job.note, ran.note]
    notes.append(f"numbers of {seen[found.depth]}" if found.depth else seen[0])
    notes.append(
        f"{found.points} rows of {group.circles[max(0, found.depth - 1)]}" if found.points else ""
    )
    note = "; ".join(part for part in notes if part)
    if row.unit == RATIO:
        base_row = baseline_row(row)
        base, base_known = model_seconds(profile, base_row, measured)
        ratio = base.seconds(base_known.efficiency) / seconds
        factor = math.exp(Z80 * math.hypot(spread, base_known.spread) * RATIO_SPREAD)
        return Prediction(ratio, ratio / factor, ratio * factor, kernel, f"{note}; against fp16")
    return Prediction.of(row, seconds, spread, kernel=kernel, note=note, things=terms.things)


def model_seconds(profile: Profile, row: Row, measured: Fitted) -> tuple[Terms, Known]:
    """The terms of a row and the numbers that apply to them."""
    terms = terms_of(profile, row)
    group = group_of(row, terms.job.phase, profile.name, gpu=terms.gpu)
    expected = expected_efficiency(row, gpu=terms.gpu)
    return terms, measured.known(group, terms.job.network, expected)


def baseline_row(row: Row) -> Row:
    """What a speed-up divides by: the same model in 16-bit floats under the same runtime."""
    return replace(row, weight_bits=16.0, activation_bits=16.0, kernel="FP16")


def _layers_ratio(profile: Profile, row: Row, terms: Terms) -> Prediction:
    """Speed-up of the products of all layers alone: each priced as a product of the kernel."""
    work = terms.job.passes[0][0]
    wide_s, seconds, found = 0.0, 0.0, None
    for operation in work.operations:
        one = replace(row, m=operation.m, n=operation.n, k=operation.k, metric="latency", unit="s")
        found = predict_product(profile, one)
        seconds += operation.count * found.predicted
        wide_s += operation.count * predict_product(profile, products.baseline_row(one)).predicted
    assert found is not None
    factor = math.sqrt(found.high / found.low)
    ratio = wide_s / seconds
    note = f"{terms.job.network} ({terms.job.phase}); against {products.BASELINE}; {found.note}"
    return Prediction(ratio, ratio / factor, ratio * factor, found.kernel, note.rstrip("; "))
