"""Race: sensitivities from as many samples as the plan needs, and no more.

Every (unit, format) is measured on a few samples, then on twice as many, until another draw of the
same number of samples would no longer change what is planned by much. Which units are fragile is
mostly the same on every sample; errors rise and fall together from one sample to the next, and
what they have in common does not change a plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from mixq.batch import sample_count
from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.progress import Progress, silent
from mixq.rounding.rounder import Rounder
from mixq.search.analysis import Layout
from mixq.search.budget import Budget
from mixq.search.limits import Limits
from mixq.search.milp import minimise
from mixq.search.problem import Problem
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.measured import measure
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable

FIRST: Final = 4
"""Samples to begin with; then twice as many, and so on."""
TOLERANCE: Final = 0.003
"""Of added error that a plan may lose, on average, by the draw of its samples."""
RESAMPLINGS: Final = 8
COMPRESSIONS: Final = (4, 6, 8, 10, 12)
"""What plans are looked at where no size is demanded."""

Errors = dict[tuple[str, Format], list[float]]
"""Errors by sample of every unit in every format."""


def race(
    layout: Layout,
    rounder: Rounder,
    calibration: Calibration,
    budget: Budget | None = None,
    *,
    metric: Metric | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> SensitivityTable:
    """Sensitivities on the first samples of `calibration`, as many as the plan needs.

    Args:
        layout: units, formats and prices.
        rounder: what the formats make of the weights.
        calibration: at most what is measured on.
        budget: what is demanded of the plan.
        metric: of output error; by default squared error of the main output.
        folder: where measurements are kept and taken up again.
        progress: is told how far it is.

    Raises:
        MixqError: as `measure`.
    """
    tables: list[SensitivityTable] = []
    errors: Errors = {}
    powers: list[float] = []
    done = 0
    for stop in _stops(calibration):
        part = calibration.part(done, stop)
        reference = Reference(rounder.model, part, metric)
        store = Store(
            folder, layout.model_fingerprint, part.fingerprint, rounder.fingerprint,
            reference.metric.fingerprint, signed=reference.metric.is_signed,
        )  # fmt: skip
        table = measure(
            rounder.model, part, rounder.units.values(), layout.formats, reference=reference,
            rounder=rounder, store=store, progress=progress,
        )  # fmt: skip
        tables.append(table)
        for unit, row in table.entries.items():
            for fmt in row:
                errors.setdefault((unit, fmt), []).extend(store.get(unit, fmt.name) or ())
        powers += [reference.power] * reference.samples
        done = stop
        if done == calibration.samples or regret(layout, errors, budget) <= TOLERANCE:
            break
    return replace(
        tables[0],
        entries=_entries(errors),
        output_power=math.fsum(powers) / len(powers),
        samples=done,
        calibration_fingerprint=calibration.take(done).fingerprint,
        mode="auto",
    )


def regret(layout: Layout, errors: Errors, budget: Budget | None = None) -> float:
    """Share of added error that a plan made from another draw of the samples is worse, on average.

    By the bootstrap: what these samples are to all, draws from them are to these samples.

    Args:
        layout: units, formats and prices.
        errors: by sample.
        budget: what is demanded; without a demand on size or time, several sizes are looked at
            and the worst counts.
    """
    problem = _problem(layout, errors)
    count = min(map(len, errors.values()))
    draws = np.random.default_rng(0).integers(0, count, (RESAMPLINGS, count))
    drawn = [
        _problem(layout, {key: [row[i] for i in draw] for key, row in errors.items()})
        for draw in draws
    ]
    return max(
        (_regret(problem, drawn, limits) for limits in _decisions(layout, problem, budget)),
        default=0.0,
    )


def _regret(problem: Problem, drawn: Sequence[Problem], limits: Limits) -> float:
    def loss(other: Problem) -> float:
        return problem.evaluate(minimise(other, "error", limits).assignment).error

    least = loss(problem)
    if least <= 0:
        return 0.0
    return math.fsum(max(loss(other) / least - 1, 0.0) for other in drawn) / len(drawn)


def _decisions(layout: Layout, problem: Problem, budget: Budget | None) -> list[Limits]:
    limits = Limits()
    if budget is not None:
        limits = replace(budget.limits(problem, layout.costs.baseline_latency_s), error=None)
    if limits.objective == "error":
        return [limits]
    smallest = problem.extreme("weight_bytes").weight_bytes
    sizes = [problem.original_bytes // compression for compression in COMPRESSIONS]
    return [Limits(weight_bytes=size) for size in sizes if size >= smallest]


def _problem(layout: Layout, errors: Mapping[tuple[str, Format], Sequence[float]]) -> Problem:
    table = SensitivityTable(_entries(errors), 1.0, "", 0, "", "")
    return layout.problem(table)


def _entries(
    errors: Mapping[tuple[str, Format], Sequence[float]],
) -> dict[str, dict[Format, Estimate]]:
    entries: dict[str, dict[Format, Estimate]] = {}
    for (unit, fmt), row in errors.items():
        entries.setdefault(unit, {})[fmt] = Estimate.of_errors(row)
    return entries


def _stops(calibration: Calibration) -> Iterator[int]:
    """How many samples to measure on, in turn; whole batches are never cut."""
    size = sample_count(calibration.batches[0]) if calibration.whole else 1
    stop = -(-FIRST // size) * size
    while stop < calibration.samples:
        yield stop
        stop *= 2
    yield calibration.samples
