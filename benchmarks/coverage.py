"""Are stated errors of errors true? How often intervals cover, and what stability says.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py demo minilm
    OMP_NUM_THREADS=1 python benchmarks/coverage.py demo minilm --plans

Sensitivities of many samples, rounded to nearest, are a pool whose mean is the truth; 200 times, n
of them are drawn with replacement, so that the mean of the pool is exactly what their mean
estimates. The first table has the share of 95% intervals that cover it, over all entries and of
the entry that is covered least often: mean ± 1.96 standard errors, Student's t, and the interval
that `Estimate.interval` states, of which it also says for how many of the entries it covers
between 90% and 99%. *sketch*: estimates from gradients, two random signs per sample.

With --plans, all units: plans made from n samples, how much more of the added error they have in
truth than the best plan (*found*), and how much the bootstrap said that they would (*said*).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixq.batch import call
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.rounding.rounder import Rounder
from mixq.search.choice import Choice
from mixq.search.frontier import build_frontier
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.stability import stability
from mixq.search.trials import Proposal, Trial
from mixq.sensitivity.engine import Engine
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.sketch import sketch
from mixq.sensitivity.table import SensitivityTable
from mixq.sources import load_model

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"
SPECS = {"demo": "demo", "minilm": f"{MODELS / 'minilm'}.py:load_more"}
FORMATS = [Format.parse(text) for text in ("w8g64", "w4g64-zp", "w2g64-zp")]
COUNTS = (4, 8, 16, 32, 64)
RESAMPLINGS = 200
COMPRESSIONS = (6, 8, 10)
PLANS = 40
"""Draws of samples that are planned from, each of which is bootstrapped."""

Pool = dict[tuple[str, Format], NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", choices=SPECS)
    parser.add_argument("--plans", action="store_true")
    parser.add_argument("--samples", type=int, help="in the pool; by default all, or 48 of plans")
    arguments = parser.parse_args()
    if arguments.plans:
        print("| model | pool | n | compression | found | said |\n" + "|---" * 6 + "|")
        for name in arguments.models:
            plans(name, arguments.samples or 48)
        return
    print(
        "| model | entries | pool | n | ± 1.96 se, all | least | Student, all | least | "
        "stated, all | least | most | 90% to 99% |\n" + "|---" * 12 + "|"
    )
    for name in arguments.models:
        for how in ("", " (sketch)"):
            found = pool(name, arguments.samples, 1 if name == "demo" else 6, sketched=bool(how))
            print("\n".join(coverage(name + how, found)), flush=True)


def pool(name: str, samples: int | None, every: int, *, sketched: bool = False) -> Pool:
    """Errors by sample of each unit (or each so-many-th in the order of running)."""
    loaded = load_model(SPECS[name])
    assert loaded.calibration is not None
    calibration = loaded.calibration.take(samples or loaded.calibration.samples)
    batch = calibration.take(1).batches[0]
    graph = build_graph(loaded.model, lambda: call(loaded.model, batch))
    rounder = Rounder(loaded.model, graph.units)
    engine = Engine(Reference(loaded.model, calibration))
    units = sorted(graph.units, key=lambda unit: engine.order((unit,)))[::every]
    if sketched:
        listed = [graph.units[unit] for unit in units]
        formats = dict.fromkeys(units, FORMATS)
        rows = sketch(loaded.model, calibration, listed, formats, rounder)
        return {
            (unit, fmt): np.array(entry.per_sample)
            for unit, row in rows.items()
            for fmt, entry in row.items()
        }
    return {
        (unit, fmt): np.array(engine.errors(unit, rounder.replacement(unit, fmt), unit))
        for unit in units
        for fmt in FORMATS
    }


def coverage(name: str, found: Pool) -> list[str]:
    """One row per number of samples; entries that are zero on all of them are left out."""
    entries = [values for values in found.values() if values.any()]
    rows = []
    for n in COUNTS:
        chance = np.random.default_rng(n)
        shares: dict[str, list[float]] = {"normal": [], "student": [], "stated": []}
        for values in entries:
            truth = float(values.mean())
            hits = dict.fromkeys(shares, 0)
            for drawn in values[chance.integers(0, len(values), (RESAMPLINGS, n))]:
                estimate = Estimate.of(drawn.tolist())
                off = abs(estimate.error - truth)
                low, high = estimate.interval()
                hits["normal"] += off <= 1.96 * estimate.error_se
                hits["student"] += off <= estimate.margin()
                hits["stated"] += low <= truth <= high
            for how, count in hits.items():
                shares[how].append(count / RESAMPLINGS)
        cells = [f"{f(share):.1%}" for share in shares.values() for f in (statistics.fmean, min)]
        stated = shares["stated"]
        cells += [f"{max(stated):.1%}", f"{sum(0.9 <= share <= 0.99 for share in stated)}"]
        size = str(len(entries[0]))
        rows.append("| " + " | ".join([name, str(len(entries)), size, str(n), *cells]) + " |")
    return rows


def plans(name: str, samples: int) -> None:
    """Print one row per number of samples and compression."""
    found = pool(name, samples, 1)
    loaded = load_model(SPECS[name])
    assert loaded.calibration is not None
    batch = loaded.calibration.take(1).batches[0]
    graph = build_graph(loaded.model, lambda: call(loaded.model, batch))

    def problem(errors: Mapping[tuple[str, Format], float]) -> Problem:
        choices = {
            unit: tuple(
                Choice(fmt, errors[unit, fmt], graph.units[unit].stored_bytes(fmt), 0.0)
                for fmt in FORMATS
            )
            for unit in graph.units
        }
        return Problem(choices, original_bytes=graph.original_bytes, other_bytes=graph.other_bytes)

    truth = problem({key: float(values.mean()) for key, values in found.items()})
    for compression in COMPRESSIONS:
        limits = Limits(weight_bytes=graph.original_bytes // compression)
        if truth.extreme("weight_bytes").weight_bytes > (limits.weight_bytes or 0):
            continue
        least = truth.evaluate(best(truth, limits)).error
        for n in COUNTS[:-2]:
            chance = np.random.default_rng(n)
            losses, said = [], []
            for index in range(PLANS):
                draw = chance.integers(0, samples, n)
                entries = {key: Estimate.of(v[draw].tolist()) for key, v in found.items()}
                drawn = problem({key: entry.error for key, entry in entries.items()})
                plan = best(drawn, limits)
                losses.append(truth.evaluate(plan).error / least - 1)
                trial = Trial(
                    Proposal("optimum", "additive", plan), drawn.evaluate(plan), (0.0,), None
                )
                outcome = stability(drawn, table(entries, n), trial, limits, seed=index)
                said.append(0.0 if outcome is None else outcome.regret)
            shares = f"{statistics.fmean(losses):.2%} | {statistics.fmean(said):.2%}"
            print(f"| {name} | {samples} | {n} | {compression}x | {shares} |", flush=True)


def best(problem: Problem, limits: Limits) -> Mapping[str, Format]:
    frontier = build_frontier(problem)
    return frontier.assignment(frontier.best_under(limits.weight_bytes or 0).index)


def table(entries: Mapping[tuple[str, Format], Estimate], samples: int) -> SensitivityTable:
    rows: dict[str, dict[Format, Estimate]] = {}
    for (unit, fmt), estimate in entries.items():
        rows.setdefault(unit, {})[fmt] = estimate
    return SensitivityTable(rows, 1.0, "", samples, "", "")


if __name__ == "__main__":
    main()
